"""Small files of a run that are always whole: written beside their place, then moved into it."""

import json
import os
from math import isfinite
from pathlib import Path

__all__ = ["json_line", "write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Write so that a reader, or a crash, finds either the old text or the new, never a part."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


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
