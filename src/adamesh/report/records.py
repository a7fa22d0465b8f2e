"""What stands in a run's files, taken for what it is: a line may be cut short, or another program's."""

import json
import tomllib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from adamesh.errors import ConfigurationError
from adamesh.train.events import Event

__all__ = ["event", "numbers", "settings", "summary"]


def numbers(line: bytes) -> dict[str, float | None] | None:
    """A line's numbers, None where one is not finite; None instead of a record where it has no step."""
    try:
        found = json.loads(line)
        step = found["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 1 << 53:
        return None
    return {key: _number(value) for key, value in found.items() if _is_number(value)}


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: Any) -> float | None:
    """None where it is not finite, or beyond what a float can hold."""
    try:
        return None if value is None or not isfinite(value) else float(value)
    except OverflowError:
        return None


def event(line: bytes) -> Event | None:
    """A line's event; None where it is none."""
    try:
        event: Any = Event(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    whole = isinstance(event.step, int) and isinstance(event.kind, str) and isinstance(event.message, str)
    return event if whole else None


def summary(path: Path) -> dict[str, Any] | None:
    """What a run has concluded; None where that is not to be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def settings(path: Path) -> dict[str, Any]:
    """A configuration by dotted key, as the file has it.

    Raises:
        ConfigurationError: it is no TOML.
    """
    # Not `load_config`: a run of another version, with keys that are not known here, can be looked at all the same.
    try:
        return _flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not valid TOML: {error}") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
