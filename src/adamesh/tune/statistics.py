"""How sure a mean over a few seeds is: Student's t intervals, of values and of paired differences."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, inf, pi, sin, sqrt
from statistics import fmean, stdev

__all__ = ["Interval", "mean_interval", "student_t"]


@dataclass(frozen=True)
class Interval:
    """A mean, and where the true mean lies with the confidence that was asked for."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float], confidence: float) -> Interval:
    """Student's t interval of the mean of values that are independent and about normal (Student 1908).

    One value says nothing of how much values vary: its interval is the whole line.

    Args:
        values: at least one.
        confidence: above 0, below 1.
    """
    assert len(values) > 0
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, -inf, inf)
    if min(values) == max(values):  # where rounding of the mean would make a spread of nothing
        return Interval(values[0], values[0], values[0])
    half = student_t(len(values) - 1, confidence) * stdev(values) / sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def student_t(freedom: int, confidence: float) -> float:
    """The t with P(-t < T < t) = ``confidence`` for Student's distribution.

    Args:
        freedom: degrees of it, at least 1.
        confidence: above 0, below 1.
    """
    assert freedom >= 1
    assert 0 < confidence < 1
    # T = sqrt(freedom) tan(angle): the angle is bounded, so halving finds it whatever the tails.
    low, high = 0.0, pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < confidence else (low, middle)
    return sqrt(freedom) * sin(low) / cos(low)


def _within(angle: float, freedom: int) -> float:
    """P(-t < T < t) for t = sqrt(freedom) tan(angle) (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    cosine, sine = cos(angle), sin(angle)
    term = cosine if freedom % 2 else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / pi * (angle + sine * total) if freedom % 2 else sine * total
