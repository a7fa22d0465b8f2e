"""Curves of any length in bounded memory, thinned so that no extreme is lost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

__all__ = ["Binned", "Column"]

_EXACT = ("step", "samples")


@dataclass
class Column:
    """One number, bin by bin."""

    total: list[float] = field(default_factory=list)
    """Of the finite values."""
    count: list[int] = field(default_factory=list)
    """How many are finite."""
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)
    """How many are not finite."""

    def open_bins(self, number: int) -> None:
        """Have so many bins; new ones are empty."""
        for _ in range(number - len(self.total)):
            self.total.append(0.0)
            self.count.append(0)
            self.low.append(inf)
            self.high.append(-inf)
            self.bad.append(0)

    def add(self, value: float | None) -> None:
        """Into the last bin; None or not finite: counted as such."""
        if value is None or not isfinite(value):
            self.bad[-1] += 1
            return
        self.total[-1] += value
        self.count[-1] += 1
        self.low[-1] = min(self.low[-1], value)
        self.high[-1] = max(self.high[-1], value)

    def join_pairs(self) -> None:
        """Half as many bins, each of two."""
        self.total = [a + b for a, b in _pairs(self.total)]
        self.count = [a + b for a, b in _pairs(self.count)]
        self.low = [min(pair) for pair in _pairs(self.low)]
        self.high = [max(pair) for pair in _pairs(self.high)]
        self.bad = [a + b for a, b in _pairs(self.bad)]

    def cut(self, number: int) -> None:
        """Keep the first so many bins."""
        for values in (self.total, self.count, self.low, self.high, self.bad):
            del values[number:]


class Binned:
    """Records with a ``step``, in bins of equally many: each key's mean and extremes, and how many are not finite.

    While there are few records each is a bin of its own, and nothing is lost. When the bins are full, neighbours are
    joined and all are twice as wide from then on; so mean, lowest and highest are always exact.

    Args:
        capacity: most bins, even.
        most_keys: further keys are not kept.
    """

    def __init__(self, capacity: int = 600, most_keys: int = 64) -> None:
        assert capacity % 2 == 0
        self._capacity = capacity
        self._most_keys = most_keys
        self.columns: dict[str, Column] = {}
        self.num_bins = 0
        self.width = 1
        """Records in a bin; in the last one, at most."""
        self.generation = 0
        """Changes when bins change that are not the last one."""
        self._in_last = 0

    def add(self, record: Mapping[str, float | None]) -> None:
        """The next record. One that goes back to an earlier step takes the place of what was from there on."""
        step = record["step"]
        assert step is not None
        if self.num_bins and step <= self.columns["step"].high[-1]:
            self._go_back(step)
        if self.num_bins == 0 or self._in_last == self.width:
            self._open_bin()
        self._in_last += 1
        for key, value in record.items():
            if key not in self.columns:
                if len(self.columns) == self._most_keys:
                    continue
                self.columns[key] = Column()
                self.columns[key].open_bins(self.num_bins)
            self.columns[key].add(value)

    def clear(self) -> None:
        """Begin anew."""
        self.columns.clear()
        self.num_bins, self.width, self._in_last = 0, 1, 0
        self.generation += 1

    def since(self, generation: int, known: int) -> dict[str, Any]:
        """What a reader lacks that has ``known`` bins of a generation, as JSON can bring it.

        Returns:
            ``generation``, ``width``, ``start`` (the first bin that is given; what the reader has from there on is
            replaced) and ``columns``: for each key ``mean`` (None: no finite value), ``bad`` where any value is not
            finite, and ``low`` and ``high`` where bins hold several records.
        """
        start = max(0, min(known, self.num_bins) - 1) if generation == self.generation else 0
        columns = {key: _told(key, column, start, self.width) for key, column in self.columns.items()}
        return {"generation": self.generation, "width": self.width, "start": start, "columns": columns}

    def _open_bin(self) -> None:
        if self.num_bins == self._capacity:
            for column in self.columns.values():
                column.join_pairs()
            self.num_bins //= 2
            self.width *= 2
            self.generation += 1
        self.num_bins += 1
        self._in_last = 0
        for column in self.columns.values():
            column.open_bins(self.num_bins)

    def _go_back(self, step: float) -> None:
        """Drop bins that begin at ``step`` or later; one that begins before it keeps what it has."""
        self.num_bins = sum(low < step for low in self.columns["step"].low)
        for column in self.columns.values():
            column.cut(self.num_bins)
        self._in_last = self.width
        self.generation += 1


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(values[::2], values[1::2], strict=True)


def _told(key: str, column: Column, start: int, width: int) -> dict[str, list[float | None]]:
    counts = column.count[start:]
    totals = column.total[start:]
    digits = 15 if key in _EXACT else 6
    means = [_short(total / count, digits) if count else None for total, count in zip(totals, counts, strict=True)]
    told: dict[str, list[float | None]] = {"mean": means}
    if width > 1:
        told["low"] = [_short(low, digits) if isfinite(low) else None for low in column.low[start:]]
        told["high"] = [_short(high, digits) if isfinite(high) else None for high in column.high[start:]]
    if any(column.bad[start:]):
        told["bad"] = list(column.bad[start:])
    return told


def _short(value: float, digits: int) -> float:
    """With so many significant digits; a whole number without a point."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
