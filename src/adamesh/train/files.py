"""Small files of a run that are always whole: written beside their place, then moved into it."""

import json
import os
from contextlib import suppress
from io import FileIO
from math import isfinite
from pathlib import Path

from adamesh.errors import DiskFull

__all__ = ["append_whole", "json_line", "write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Write so that a reader, or a crash, finds either the old text or the new, never a part.

    Raises:
        DiskFull: the old text is still there.
        OSError: it cannot be written for another reason.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if DiskFull.is_behind(error):
            raise DiskFull.at(path, "what was there before is kept") from error
        raise


def append_whole(file: FileIO, line: str) -> None:
    """Add a line at the end of an unbuffered file, or nothing.

    Raises:
        DiskFull: the lines before are still there.
        OSError: it cannot be written for another reason.
    """
    end = file.seek(0, os.SEEK_END)
    left = f"{line}\n".encode()
    try:
        # A disk that fills up takes a part first.
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        file.truncate(end)
        if DiskFull.is_behind(error):
            raise DiskFull.at(file.name, "all lines before this one are kept") from error
        raise


def json_line(record: object) -> str:
    """One line of strict JSON: numbers that JSON does not have (NaN, infinities) become null."""
    return json.dumps(_finite(record), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value
