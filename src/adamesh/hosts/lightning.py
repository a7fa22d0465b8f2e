"""Lightning's Trainer with adamesh's optimizers: its DDP strategy, without DDP (Lightning 2.5 and later)."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch.optim import Optimizer

from adamesh.errors import ConfigurationError
from adamesh.optimizer import MeshOptimizer

__all__ = ["MeshStrategy"]


class MeshStrategy(DDPStrategy):  # type: ignore[misc]
    """``Trainer(strategy=MeshStrategy())``: processes, data and logging as with "ddp"; the optimizer does the rest.

    Checkpoints are Lightning's own, with the optimizer's state in the format of torch's optimizer of that name, so
    they load on any number of workers, and in a run with torch's optimizer too.

    Raises:
        ConfigurationError: an optimizer is not adamesh's, and nobody would average its gradients.
    """

    def configure_ddp(self) -> None:
        """The model stays as it is."""

    def setup_optimizers(self, trainer: Any) -> None:
        """Refuses optimizers that would train every worker apart."""
        super().setup_optimizers(trainer)
        for optimizer in self.optimizers:
            if not isinstance(optimizer, MeshOptimizer):
                raise ConfigurationError(
                    f"MeshStrategy with {type(optimizer).__name__}: nothing would average its gradients over workers. "
                    'Return one of adamesh\'s optimizers from configure_optimizers, or take strategy="ddp"'
                )

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Around backwards that are accumulated: nothing is sent."""
        with ExitStack() as held:
            for optimizer in self.optimizers:
                held.enter_context(optimizer.no_sync())
            yield

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """All of it on the first worker, which writes the checkpoint. Collective."""
        if isinstance(optimizer, LightningOptimizer):
            optimizer = optimizer.optimizer
        assert isinstance(optimizer, MeshOptimizer)
        return optimizer.full_state_dict()

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """What `optimizer_state` gave. Collective."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_full_state_dict(state)
