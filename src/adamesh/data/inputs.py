"""Text files of inputs to predict on, one a line. Whatever is wrong with a line is said with its number."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adamesh.errors import DataError

__all__ = ["read_features", "read_lines", "read_pairs"]

_BETWEEN = re.compile(r"\s*[,;]\s*|\s+")
_SHOWN = 60
_LARGEST_ID = 2**63 - 1


def read_lines(path: Path, form: str) -> list[str]:
    """The lines of a text, without their ends; white space at the end of a line is no part of it.

    Args:
        path: a file of UTF-8.
        form: what a line is, for errors: "two numbers".

    Raises:
        DataError: the file is missing, no text or empty, or a line is blank.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a text file with {form} a line") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a text file with {form} a line") from error
    except UnicodeDecodeError as error:
        broken = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {broken}: is no UTF-8 text; give a text file with {form} a line") from error
    lines = [line.rstrip() for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise DataError(f"{path}: is empty; give {form} a line")
    for number, line in enumerate(lines, start=1):
        if not line:
            raise DataError(f"{path}, line {number}: is empty, and a line must have {form}; remove it")
    return lines


def read_features(path: Path, columns: int) -> Tensor:
    """Numbers, ``columns`` of them a line, separated by commas, semicolons or white space.

    A first line without any number is taken for a header.

    Returns:
        float32 [lines, columns].

    Raises:
        DataError: there are no such lines, or one has another count, or something that is no finite number.
    """
    form = f"{columns} numbers, separated by commas or spaces"
    rows = []
    for number, words in _words(path, form):
        if len(words) != columns:
            raise DataError(f"{path}, line {number}: has {len(words)} values, and every line must have {form}")
        values = [_number(word) for word in words]
        for word, value in zip(words, values, strict=True):
            # Not a number compares as False, too.
            if value is None or not abs(value) <= torch.finfo(torch.float32).max:
                raise DataError(
                    f"{path}, line {number}: has {word[:_SHOWN]!r}, and every line must have {form}, each finite "
                    "in float32"
                )
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float32)


def read_pairs(path: Path, first: str, second: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two whole numbers a line, from 0 up, separated by a comma, a semicolon or white space.

    A first line without any number is taken for a header.

    Args:
        path: the file.
        first: what the first number of a line is, for errors.
        second: what the second is.

    Returns:
        All first numbers, and all second ones, int64 [lines].

    Raises:
        DataError: there are no such lines, or one is of another form.
    """
    form = f"{first} and {second}, two whole numbers separated by a comma or a space"
    pairs = []
    for number, words in _words(path, form):
        if len(words) != 2:
            raise DataError(f"{path}, line {number}: has {len(words)} values, and every line must have {form}")
        for word in words:
            if not re.fullmatch(r"[0-9]{1,19}", word) or int(word) > _LARGEST_ID:
                raise DataError(f"{path}, line {number}: has {word[:_SHOWN]!r}, and every line must have {form}")
        pairs.append([int(word) for word in words])
    columns = np.array(pairs, np.int64)
    return columns[:, 0], columns[:, 1]


def _words(path: Path, form: str) -> Sequence[tuple[int, list[str]]]:
    """The words of each line but a header, with the line's number."""
    rows = [(number, _BETWEEN.split(line.strip())) for number, line in enumerate(read_lines(path, form), start=1)]
    is_header = all(_number(word) is None for word in rows[0][1])
    if is_header and len(rows) == 1:
        raise DataError(f"{path}, line 1: has no number, and every line but a header must have {form}")
    return rows[1:] if is_header else rows


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
