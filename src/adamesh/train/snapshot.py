"""A run's state in memory: what a checkpoint would hold of this worker, without the disk and without the others."""

from typing import Any

import torch
from torch import Tensor, nn

from adamesh.optimizer import MeshOptimizer

__all__ = ["Snapshot"]


class Snapshot:
    """A copy of this worker's parameters, buffers and part of the optimizer's state; taking it is collective.

    Args:
        step: how many steps of the run were taken.
        model: whose parameters the optimizer has.
        optimizer: whose plan lets all workers step together.
    """

    def __init__(self, step: int, model: nn.Module, optimizer: MeshOptimizer) -> None:
        optimizer.flush()
        self.step = step
        self._model = model
        self._optimizer = optimizer
        self._values = [tensor.detach().clone() for tensor in self._tensors()]
        self._state = _copied(optimizer.state_dict())

    def restore(self) -> None:
        """Put everything back, on every worker; no collective. It can be done again."""
        with torch.no_grad():
            for tensor, value in zip(self._tensors(), self._values, strict=True):
                tensor.copy_(value)
        self._optimizer.load_state_dict(_copied(self._state))

    def _tensors(self) -> list[Tensor]:
        return [*self._model.parameters(), *self._model.buffers()]


def _copied(value: Any) -> Any:
    """Containers and tensors anew, all else as it is."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_copied(v) for v in value]
    return value
