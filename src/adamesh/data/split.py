"""What a trainer needs of a data set: its length, and a batch for given indices."""

from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

__all__ = ["AugmentedSplit", "Split", "TensorSplit"]

BatchT_co = TypeVar("BatchT_co", covariant=True)


class Split(Protocol[BatchT_co]):
    """A finite, indexable set of samples."""

    def __len__(self) -> int:
        """The number of samples."""

    def batch(self, indices: Tensor) -> BatchT_co:
        """The samples at ``indices`` (int64, shape [n], n >= 1), in that order, as one batch."""


@runtime_checkable
class AugmentedSplit(Split[BatchT_co], Protocol[BatchT_co]):
    """A set of samples that look another way each time they are trained on: cropped, flipped, masked."""

    def augmented_batch(self, indices: Tensor, seed: int) -> BatchT_co:
        """`batch`, augmented: each sample by a pure function of its index and the seed, which is the epoch's.

        `adamesh.data.draws.uniform` draws such numbers.
        """


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
