"""events.jsonl: what happened to a run besides training, over all its starts."""

import json
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path

from adamesh.train.files import append_whole, json_line

__all__ = ["Event", "append_event", "read_events"]


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    step: int
    kind: str
    """A word to search for: interrupted, resumed, rollback, ..."""
    message: str


def append_event(path: Path, event: Event) -> None:
    """Add an event; a file that does not exist is begun.

    Raises:
        DiskFull: the events before are still there.
    """
    with FileIO(path, "a") as file:
        append_whole(file, json_line(asdict(event)))


def read_events(path: Path) -> list[Event]:
    """All events so far; a line that a crash cut short is left out."""
    if not path.exists():
        return []
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return events
