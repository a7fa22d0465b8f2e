"""Why a run failed: what its workers' logs end with."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LastWords", "read_last_words"]

_ENDS_AT = 16_384
"""Bytes at the end of a log that are read: a traceback is shorter."""
_CONSEQUENCES = ("PeerLost", "CommunicationTimeout", "CommunicationError", "StepOutOfSync", "DistBackendError")
"""They say that another worker failed."""
_RAISED = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|[A-Z]\w*)): (?P<message>.+)$")


@dataclass(frozen=True)
class LastWords:
    """An exception that ended a worker."""

    kind: str
    """Its class, without the module."""
    message: str
    step: int | None
    """In which it was raised; None: before the first."""
    log: Path


def read_last_words(folder: Path, unless_before: Path | None) -> LastWords | None:
    """What ended the last start of the run, if one of its workers says so.

    Args:
        folder: the run's.
        unless_before: what was said before this file was written is not asked for: the run went on.
    """
    starts = folder / "logs"
    numbers = [int(start.name) for start in starts.iterdir() if start.name.isdecimal()] if starts.is_dir() else []
    if not numbers:
        return None
    logs = sorted((starts / str(max(numbers))).glob("worker*.log"))
    if unless_before is not None:
        ended_s = unless_before.stat().st_mtime
        logs = [log for log in logs if log.stat().st_mtime > ended_s]
    words = [said for log in logs for said in _said(log)]
    causes = [one for one in words if one.kind not in _CONSEQUENCES]
    return next(iter([*causes, *words]), None)


def _said(log: Path) -> Iterator[LastWords]:
    """The exception at the end of a log, if that is how it ends; notes of the trainer follow it."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _ENDS_AT))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return  # a log that cannot be read says nothing, and the others may
    _head, traced, tail = text.rpartition("Traceback (most recent call last):")
    if not traced:
        return
    lines = tail.splitlines()
    for position, line in enumerate(lines):
        found = _RAISED.match(line)
        if found is not None:
            step = next(
                (int(note[1]) for line in lines[position:] if (note := re.match(r"in step (\d+)$", line))), None
            )
            yield LastWords(found["kind"].rpartition(".")[2], found["message"], step, log)
            return
