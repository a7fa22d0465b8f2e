"""What was usual lately: the last norms and losses, and how far beyond them is too far."""

import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from math import exp, inf, log

import numpy as np

__all__ = ["Window"]


class Window:
    """The last values of one number, in order; every worker that makes the same steps has the same.

    What is usual is judged on a logarithmic scale: the noise of gradient norms and losses is a factor, which stays as
    it is while they fall by orders of magnitude. (Median and MAD: Hampel 1974, The influence curve and its role in
    robust estimation; on the logarithms, which is ours.)

    Args:
        length: of the window.
        least: values before anything is judged.
        threshold: MADs above the median.
        floor: times the median; below that nothing is too large.
    """

    def __init__(self, length: int, least: int, threshold: float, floor: float) -> None:
        self.values: deque[float] = deque(maxlen=length)
        self._least = least
        self._threshold = threshold
        self._floor = floor
        self._limit: float | None = None

    def add(self, value: float) -> None:
        """A step with this value was made."""
        self.values.append(value)
        self._limit = None

    def replace(self, values: Iterable[float]) -> None:
        """Take over what another worker remembers."""
        self.values.clear()
        self.values.extend(values)
        self._limit = None

    @property
    def limit(self) -> float:
        """What is too much begins above this; infinite where that cannot be told."""
        if self._limit is None:
            self._limit = self._beyond(self.values) if len(self.values) >= self._least else inf
        return self._limit

    @property
    def mark(self) -> int:
        """32 bits that tell this window from others."""
        return zlib.crc32(np.array(self.values, dtype=np.float64).tobytes())

    def _beyond(self, values: Sequence[float] | deque[float]) -> float:
        if min(values) <= 0:  # a loss may be negative: then it has no scale
            return inf
        logs = sorted(map(log, values))
        middle = _median(logs)
        mad = _median(sorted(abs(value - middle) for value in logs))
        beyond = middle + max(self._threshold * mad, log(self._floor))
        return exp(beyond) if beyond < 700 else inf


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
