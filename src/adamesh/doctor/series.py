"""The numbers of one key over a run's steps, and the few figures that symptoms are judged by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "spread"]


@dataclass(frozen=True)
class Series:
    """One key of metrics.jsonl: arrays of one length, in the order of steps."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    """NaN where the line says null, as it does for a number that is not finite."""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def finite(self) -> "Series":
        return self.where(np.isfinite(self.values))

    def where(self, chosen: NDArray[np.bool_]) -> "Series":
        """Those of its lines that are chosen."""
        return Series(self.steps[chosen], self.values[chosen])

    def blocks(self, number: int) -> list["Series"]:
        """Cut into so many runs of lines, about equal; fewer where there are fewer lines."""
        cuts = np.array_split(np.arange(len(self)), max(1, min(number, len(self))))
        return [Series(self.steps[cut], self.values[cut]) for cut in cuts]

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    def span(self) -> str:
        """Its steps, in words."""
        first, last = int(self.steps[0]), int(self.steps[-1])
        return f"step {first}" if first == last else f"steps {first} to {last}"


def spread(values: NDArray[np.float64] | Sequence[float]) -> float:
    """The standard deviation, from the median distance to the median: a few outliers do not move it."""
    array = np.asarray(values, dtype=np.float64)
    return float(1.4826 * np.median(np.abs(array - np.median(array))))
