"""What was usual lately: the last norms and losses, and how far beyond them is too far."""

import struct
import zlib
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from math import exp, inf, log

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
        self.values: deque[float] = deque()
        self.mark = 0
        """32 bits that tell what was added, since the start or what was taken over, from other histories."""
        self._length = length
        self._least = least
        self._threshold = threshold
        self._floor = floor
        self._logs: list[float] = []
        """Of the values, in ascending order; of values up to 0, minus infinity."""
        self._limit: float | None = None

    def add(self, value: float) -> None:
        """A step with this value was made."""
        if len(self.values) == self._length:
            del self._logs[bisect_left(self._logs, _log(self.values.popleft()))]
        self.values.append(value)
        insort(self._logs, _log(value))
        self.mark = zlib.crc32(struct.pack("<d", value), self.mark)
        self._limit = None

    def replace(self, values: Iterable[float]) -> None:
        """Take over what another worker remembers."""
        self.values.clear()
        self._logs.clear()
        self.mark, self._limit = 0, None
        for value in values:
            self.add(value)

    @property
    def limit(self) -> float:
        """What is too much begins above this; infinite where that cannot be told."""
        if self._limit is None:
            self._limit = self._beyond() if len(self.values) >= self._least else inf
        return self._limit

    def _beyond(self) -> float:
        if self._logs[0] == -inf:  # a loss may be negative: then it has no scale
            return inf
        middle = _median(self._logs)
        mad = _median(sorted([abs(value - middle) for value in self._logs]))
        beyond = middle + max(self._threshold * mad, log(self._floor))
        return exp(beyond) if beyond < 700 else inf


def _log(value: float) -> float:
    return log(value) if value > 0 else -inf


def _median(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
