"""The loss while the learning rate rises: what the workers found, and what is left of it without noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, sqrt
from statistics import NormalDist, median

__all__ = ["Curve", "Look", "between_seeds", "lowest_by_chance", "noise_of", "smoothed"]

_NORMAL_MAD = 1.4826
"""A normal distribution's standard deviation, in median absolute deviations."""


@dataclass(frozen=True)
class Look:
    """At a batch of test data, on the way."""

    step: int
    """After it, from 0."""
    loss: float
    mismatched: float
    """The loss on the same batch, when inputs are put to each other's targets."""


@dataclass(frozen=True)
class Curve:
    """One climb, of one seed."""

    seed: int
    rates: Sequence[float]
    """At each step, had it been made."""
    losses: Sequence[float]
    """Of each step's batch, before the step; shorter than ``rates`` where there was nothing more to see."""
    looks: Sequence[Look]


def between_seeds(curves: Sequence[Curve]) -> list[float]:
    """At each step the median over seeds; it ends where half of the curves have ended."""
    length = max(len(curve.losses) for curve in curves)
    columns = ([curve.losses[step] if step < len(curve.losses) else inf for curve in curves] for step in range(length))
    middle = [median(column) for column in columns]
    return middle[: middle.index(inf)] if inf in middle else middle


def smoothed(values: Sequence[float], width: float) -> list[float]:
    """Exponential averages to both sides, divided by the weights that there were: without a bias at the ends.

    An average to one side would lag: on an axis of rates it would move everything to the right.

    Args:
        values: finite.
        width: after so many values a weight has fallen by e, about; at least 1.
    """
    decay = 1 - 1 / width
    before, behind = _running(values, decay), _running(values[::-1], decay)[::-1]
    ones = [1.0] * len(values)
    weight_before, weight_behind = _running(ones, decay), _running(ones, decay)[::-1]
    # The value itself is in both.
    return [
        (b + a - value) / (wb + wa - 1)
        for b, a, value, wb, wa in zip(before, behind, values, weight_before, weight_behind, strict=True)
    ]


def noise_of(values: Sequence[float]) -> float:
    """The standard deviation of what is added to a curve that changes slowly (Rice 1984: by its differences).

    By their median absolute deviation, so that a few jumps do not count; 0 for fewer than three values.
    """
    differences = [after - before for before, after in pairwise(values)]
    if len(differences) < 2:
        return 0.0
    middle = median(differences)
    return _NORMAL_MAD * median(abs(difference - middle) for difference in differences) / sqrt(2)


def lowest_by_chance(noise: float, length: int, width: float, num_start: int, chance: float) -> float:
    """How far below the mean of its beginning the lowest point of a smoothed curve of nothing but noise lies.

    Args:
        noise: standard deviation of a value.
        length: of the curve.
        width: of the smoothing.
        num_start: values in the mean of the beginning.
        chance: that it lies lower, at most (Bonferroni, over as many stretches as do not overlap).
    """
    decay = 1 - 1 / width
    left = (1 + decay**2) / (1 - decay**2) * ((1 - decay) / (1 + decay)) ** 2  # of the variance, in the middle
    stretches = max(1.0, length * left)
    return NormalDist().inv_cdf(1 - chance / stretches) * noise * sqrt(left + 1 / num_start)


def _running(values: Sequence[float], decay: float) -> list[float]:
    total, totals = 0.0, []
    for value in values:
        total = decay * total + value
        totals.append(total)
    return totals
