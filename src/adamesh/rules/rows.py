"""What a row rule is: how the rows of a table that a step touched are updated."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from adamesh.rules.base import Hyper

__all__ = ["RowRule", "Rows"]


@dataclass(frozen=True)
class Rows:
    """The touched rows, gathered from a table: row ``i`` of each tensor belongs to the same row of the table.

    ``params`` and ``state`` are updated in place; ``grads`` may be used up.
    """

    params: Tensor
    """[rows, width], float32 or float64."""
    grads: Tensor
    """[rows, width], the same dtype: the mean gradient, clipped."""
    state: Mapping[str, Tensor]
    """Each [rows, width]."""
    step: int
    """The table's committed updates, this one included."""
    counts: Tensor
    """[rows], int32: each row's own updates, this one included."""
    gaps: Tensor
    """[rows], int32: the table's updates since the row's last one, or since the start; 1 if the row missed none."""


class RowRule(ABC):
    """An update of rows that keeps its state per element."""

    @abstractmethod
    def state_names(self, hyper: Hyper) -> Sequence[str]:
        """The names of the state tensors, each of the table's shape and zero at the start."""

    @abstractmethod
    def check(self, hyper: Hyper) -> None:
        """Raise ConfigurationError for a hyper-parameter that this rule cannot work with."""

    @abstractmethod
    def update(self, rows: Rows, hyper: Hyper) -> None:
        """Update the rows and their state in place."""
