"""A curve in characters."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

__all__ = ["sparkline"]

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_NOT_FINITE = "×"


def sparkline(values: Sequence[float | None], width: int, height: int) -> list[str]:
    """Lines of text, the top one first: each column as high as the mean of its part of the values.

    The lowest column is one eighth of a line high, the highest fills all lines; where positive values span a factor of
    100 or more, heights are those of their logarithms.

    Args:
        values: None where one is not finite; a column that has any shows ``×``.
        width: most columns.
        height: lines.
    """
    if not values:
        return [""] * height
    count = min(width, len(values))
    cuts = [len(values) * column // count for column in range(count + 1)]
    parts = [values[start:stop] for start, stop in pairwise(cuts)]
    means = [_mean([value for value in part if value is not None]) for part in parts]
    finite = [mean for mean in means if mean is not None]
    if finite and min(finite) > 0 and max(finite) >= 100 * min(finite):
        means = [None if mean is None else log(mean) for mean in means]
        finite = [mean for mean in means if mean is not None]
    low, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    most = 8 * height - 1
    columns = []
    for part, mean in zip(parts, means, strict=True):
        if mean is None or None in part:
            columns.append(_NOT_FINITE.ljust(height))
        else:
            eighths = 1 + round(most * (mean - low) / span) if span else 1
            columns.append("".join(_EIGHTHS[min(8, max(0, eighths - 8 * line))] for line in range(height)))
    return ["".join(column[line] for column in columns) for line in reversed(range(height))]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
