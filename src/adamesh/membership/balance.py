"""Shares of a batch that let unequal workers finish at the same time.

There is no clock: times are given. What comes of them is the same on every rank, because it is made of comparisons and
single operations in one order, and of no sum whose order a machine may choose.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from adamesh.errors import ConfigurationError

__all__ = ["Balancer", "Pace", "fastest_split"]

_WINDOW = 32
"""Steps that a worker's speed is known from, while it is the same,"""
_LAST = 16
"""and of them those that tell what no share changes."""
_JUMP = 1.25
"""Two steps in a row that took this factor more, or less, than was expected: the worker's speed is another now."""
_GAIN = 1.05
"""A split is changed where the slowest worker would be faster by this factor; what noise promises is mostly less."""
_PROBE = 16
"""Nobody gets less than this part of an equal share: without samples, nobody sees that it is fast again."""
_SHORTEST_S = 1e-6
"""What is shorter is not measured."""
_MOST_FIXED = 4.0
"""Of a step's time, what no share changes is at most so many times the rest: more is not told from noise."""


class Pace:
    """How long one worker takes for n samples: ``per_sample * (fixed + n)`` seconds.

    The fixed part is known once the worker has had shares of different sizes; until then it is taken for none.
    """

    def __init__(self) -> None:
        self.fixed = 0.0
        """What a step takes whatever the share, in samples."""
        self.per_sample = 0.0
        """Seconds; 0 before the first step."""
        self._seen: deque[tuple[int, float]] = deque(maxlen=_WINDOW)

    @property
    def is_known(self) -> bool:
        """Whether two steps at least have been seen; the first is slow for reasons of its own."""
        return len(self._seen) >= 2

    def seconds(self, count: int) -> float:
        """For so many samples."""
        return self.per_sample * (self.fixed + count)

    def observe(self, count: int, seconds: float) -> None:
        """The worker took ``seconds``, above 0, for ``count`` samples, at least one."""
        self._seen.append((count, seconds))
        if len(self._seen) > 2:
            newest = [time / self.seconds(n) for n, time in list(self._seen)[-2:]]
            if min(newest) > _JUMP or max(newest) < 1 / _JUMP:
                self._seen = deque(list(self._seen)[-2:], _WINDOW)
        self._fit()

    def _fit(self) -> None:
        seen = list(self._seen)
        widest = max(n for n, _ in seen)
        last = seen[-_LAST:]
        slopes = [(t - s) / (m - n) for i, (n, s) in enumerate(last) for m, t in last[:i] if abs(m - n) > 0.2 * widest]
        # Median of slopes (Theil 1950, Sen 1968): a few steps that took too long do not tilt it.
        if len(slopes) >= 4 and (slope := _lower_median(slopes)) > 0:
            rest = _lower_median([time - slope * n for n, time in last]) / slope
            self.fixed = min(max(rest, 0.0), _MOST_FIXED * widest)
        self.per_sample = _lower_median([time / (self.fixed + n) for n, time in seen])


class Balancer:
    """Keeps the split of one batch size among the workers of one epoch of a company.

    A split changes where the speeds that were measured promise a gain of 5 %: after the second step at the start, after
    the second step at a new speed later on. One step that took long changes nothing.

    Args:
        batch_size: samples that are split.
        num_workers: among how many.
        most: samples that a worker may get at most (its memory); None: any number. Where all together could not take
            the batch, nobody gets more than an equal share.
    """

    def __init__(self, batch_size: int, num_workers: int, most: int | None = None) -> None:
        if most is not None and not most >= 1:
            raise ConfigurationError(f"most_samples={most} is out of range: it must be at least 1, or None")
        equal = -(-batch_size // num_workers)
        self._batch_size = batch_size
        self._most = batch_size if most is None else max(most, equal)
        self._least = min(max(1, batch_size // (_PROBE * num_workers)), batch_size // num_workers)
        self._paces = [Pace() for _ in range(num_workers)]
        bounds = [batch_size * rank // num_workers for rank in range(num_workers + 1)]
        self.counts = [stop - start for start, stop in pairwise(bounds)]
        """Each worker's samples of a whole batch, by rank."""

    def observe(self, counts: Sequence[int], seconds: Sequence[float]) -> None:
        """A step was made: how many samples each worker had, and how long it took for them, waiting left out."""
        for pace, count, time in zip(self._paces, counts, seconds, strict=True):
            if count:
                pace.observe(count, max(time, _SHORTEST_S))
        if all(pace.is_known for pace in self._paces):
            better = fastest_split(self._batch_size, self._paces, self._least, self._most)
            if self._slowest(self.counts) > _GAIN * self._slowest(better):
                self.counts = better

    def _slowest(self, counts: Sequence[int]) -> float:
        return max(pace.seconds(count) for pace, count in zip(self._paces, counts, strict=True))


def fastest_split(total: int, paces: Sequence[Pace], least: int, most: int) -> list[int]:
    """The whole numbers, from ``least`` to ``most``, that add up to ``total`` and let the slowest finish first."""

    def within(seconds: float) -> list[int]:
        """What each can do in this time."""
        return [min(max(int(seconds / pace.per_sample - pace.fixed), least), most) for pace in paces]

    low, high = 0.0, max(pace.seconds(most) for pace in paces)
    for _ in range(60):
        middle = (low + high) / 2
        if sum(within(middle)) <= total:
            low = middle
        else:
            high = middle
    counts = within(low)
    while sum(counts) < total:
        open_ranks = [rank for rank, count in enumerate(counts) if count < most]
        counts[min(open_ranks, key=lambda rank: paces[rank].seconds(counts[rank] + 1))] += 1
    return counts


def _lower_median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]
