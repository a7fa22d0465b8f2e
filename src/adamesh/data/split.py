"""What a trainer needs of a data set: its length, and a batch for given indices."""

from typing import Protocol, TypeVar

from torch import Tensor

__all__ = ["Split", "TensorSplit"]

BatchT_co = TypeVar("BatchT_co", covariant=True)


class Split(Protocol[BatchT_co]):
    """A finite, indexable set of samples."""

    def __len__(self) -> int:
        """The number of samples."""

    def batch(self, indices: Tensor) -> BatchT_co:
        """The samples at ``indices`` (int64, shape [n], n >= 1), in that order, as one batch."""


class TensorSplit:
    """Inputs and targets that fit into memory.

    Args:
        inputs: one sample per row, shape [n, ...].
        targets: one target per row, shape [n, ...].
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        assert len(inputs) == len(targets), (inputs.shape, targets.shape)
        self._inputs = inputs
        self._targets = targets

    def __len__(self) -> int:
        return len(self._inputs)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self._inputs[indices], self._targets[indices]
