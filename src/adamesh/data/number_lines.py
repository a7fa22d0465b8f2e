"""Text files of numbers, a fixed count per line, read with whole-array operations: millions of lines a second."""

from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

from adamesh.errors import DataError

__all__ = ["Numbers", "read_number_lines"]

_BLOCK_BYTES = 1 << 25
_NEWLINE, _RETURN, _DOT, _ZERO = b"\n\r.0"
_MOST_DIGITS = 15  # a float64 holds them exactly

Numbers = NDArray[np.float64]


def read_number_lines(
    file: IO[bytes], origin: str, separator: bytes, columns: Sequence[str], first_line: int = 1
) -> list[Numbers]:
    """Numbers without sign or exponent, such as 17 or 3.5, the same count on each line.

    Args:
        file: read from where it stands to its end; a last line may lack its newline.
        origin: the file's name, for errors.
        separator: between numbers: one character, or the same one twice.
        columns: what each number of a line is, for errors.
        first_line: the number of the line where the file stands.

    Returns:
        One array per column.

    Raises:
        DataError: a line is not of this form; it is named by its number.
    """
    parts: list[list[Numbers]] = [[np.empty(0)] for _ in columns]
    line = first_line
    for block in _whole_lines(file):
        block_columns = _Block(block, origin, line, separator, columns).parsed()
        for part, numbers in zip(parts, block_columns, strict=True):
            part.append(numbers)
        line += len(block_columns[0])
    return [np.concatenate(part) for part in parts]


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    rest = b""
    while read := file.read(_BLOCK_BYTES):
        lines, newline, rest = (rest + read).rpartition(b"\n")
        if newline:
            yield lines + newline
    if rest:
        yield rest + b"\n"


class _Block:
    """Some whole lines of a file, as an array of characters.

    Args:
        block: the lines, each with its newline.
        origin: the file's name.
        line: the number of the first line.
        separator: between numbers.
        columns: what each number is.
    """

    def __init__(self, block: bytes, origin: str, line: int, separator: bytes, columns: Sequence[str]) -> None:
        self._text = np.frombuffer(block, np.uint8)
        self._origin = origin
        self._line = line
        self._separator = separator
        self._columns = columns
        ends = np.flatnonzero(self._text == _NEWLINE)
        self._starts = np.concatenate([[0], ends[:-1] + 1])
        self._stops = ends - ((ends > self._starts) & (self._text[ends - 1] == _RETURN))

    def parsed(self) -> list[Numbers]:
        marks = self._separators()
        starts = [self._starts, *(marks[:, column] + len(self._separator) for column in range(marks.shape[1]))]
        stops = [*(marks[:, column] for column in range(marks.shape[1])), self._stops]
        return [self._numbers(*column) for column in zip(starts, stops, self._columns, strict=True)]

    def _separators(self) -> NDArray[np.int64]:
        """Where they stand, [lines, columns - 1]."""
        marks = np.flatnonzero(self._text == self._separator[0])
        if len(self._separator) == 2:
            marks = marks[self._text[marks + 1] == self._separator[1]]  # the last character is a newline
        per_line = len(self._columns) - 1
        counts = np.searchsorted(marks, self._stops) - np.searchsorted(marks, self._starts)
        if (wrong := np.flatnonzero(counts != per_line)).size:
            index = int(wrong[0])
            self._refuse(index, f"has {counts[index] + 1} values")
        return marks.reshape(-1, per_line)

    def _numbers(self, starts: NDArray[np.int64], stops: NDArray[np.int64], column: str) -> Numbers:
        lengths = stops - starts
        value, scale = np.zeros(len(starts)), np.ones(len(starts))
        num_digits = np.zeros(len(starts), np.int8)
        after_dot = np.zeros(len(starts), bool)
        bad = lengths > _MOST_DIGITS + 1
        for place in range(min(int(lengths.max()), _MOST_DIGITS + 1)):
            inside = place < lengths
            char = self._text[np.where(inside, starts + place, starts)]
            digit = char - np.uint8(_ZERO)  # wraps around for what comes before "0"
            is_digit, is_dot = inside & (digit < 10), inside & (char == _DOT)
            bad |= inside & ~is_digit & ~(is_dot & ~after_dot)
            value = np.where(is_digit, 10 * value + digit, value)
            scale = np.where(is_digit & after_dot, 10 * scale, scale)
            num_digits += is_digit
            after_dot |= is_dot
        bad |= (num_digits == 0) | (num_digits > _MOST_DIGITS)
        if bad.any():
            index = int(bad.argmax())
            word = self._text[starts[index] : stops[index]].tobytes().decode("latin-1")
            self._refuse(index, f"has {word[:40]!r} for the {column}")
        return value / scale

    def _refuse(self, index: int, what: str) -> None:
        line = self._text[self._starts[index] : self._stops[index]].tobytes().decode("latin-1")
        form = self._separator.decode().join(self._columns)
        raise DataError(
            f"{self._origin}, line {self._line + index}: {what}, and a line must be {form!r} in numbers: {line[:80]!r}"
        )
