"""What saving and loading ask of an optimizer, whatever it is."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from adamesh.comm.base import Mesh
from adamesh.engine.fit import StateHead
from adamesh.engine.runs import HeldRun, PieceSource, StateSource

__all__ = ["StatefulOptimizer"]


class StatefulOptimizer(Protocol):
    """An optimizer whose state can be taken out by parameter name and element range, and put back."""

    @property
    def mesh(self) -> Mesh:
        """Who takes part."""

    def refuse_if_broken(self) -> None:
        """Raise what makes the state unfit to be saved, if anything does."""

    def flush(self) -> None:
        """Do what the optimizer has put off, so that parameters and state are those of the last step. Collective."""

    def agreed(self) -> AbstractContextManager[None]:
        """Inside, parameters are those that all workers agree on. Collective."""

    def named_params(self) -> list[tuple[str, nn.Parameter]]:
        """All parameters, by the optimizer's own names."""

    def head(self) -> StateHead:
        """What there is beside tensors; no collective."""

    def runs_to_save(self) -> list[HeldRun]:
        """This worker's share of the state tensors; all workers' shares together are the state. No collective."""

    def residual_means(self) -> Mapping[str, Tensor]:
        """Of what every worker holds back, the mean, for the runs that `runs_to_save` gives, by name. Collective."""

    def check_fit(self, names: Mapping[str, str], saved: Iterable[str], groups: list[dict[str, Any]]) -> None:
        """Raise CheckpointError unless a saved state is of this optimizer's parameters and groups."""

    def fetch(self, source: StateSource) -> PieceSource:
        """Read and check what this worker needs; raises CheckpointError. After it, restoring cannot fail."""

    def restore_from(self, source: StateSource, groups: list[dict[str, Any]], step: int) -> None:
        """Overwrite state and hyper-parameters; no collective."""
