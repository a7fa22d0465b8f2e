"""What the workers of a rehearsed run have noted, read while it goes on."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from adamesh.train.rehearsal import DIES, MADE, RESTED, Identity

__all__ = ["REGROUP", "WHOLE_STEP", "Note", "Notes", "Worker"]

REGROUP = "regroup"
WHOLE_STEP = "whole step"
"""Among durations of phases: from one step that was made to the next."""


@dataclass(frozen=True)
class Note:
    """A worker was at a step, in a phase."""

    at_s: float
    """By the clock that all processes of a machine share."""
    step: int
    phase: str


@dataclass
class Worker:
    """One worker process and its notes, oldest first."""

    identity: Identity
    notes: list[Note] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Its process is there, and not one that has ended and was not yet waited for."""
        try:
            stat = Path(f"/proc/{self.identity.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    @property
    def steps(self) -> int:
        """That it has made, or were made before it came."""
        return next((note.step for note in reversed(self.notes) if note.phase == MADE), 0)

    @property
    def trains(self) -> bool:
        """It has made a step."""
        return any(note.phase == MADE for note in reversed(self.notes))

    def first(self, phase: str, after_s: float) -> Note | None:
        """The first note of a phase after a moment."""
        return next((note for note in self.notes if note.at_s > after_s and note.phase == phase), None)

    @property
    def steps_lost(self) -> int:
        """Steps that were made and are made again."""
        lost = furthest = 0
        for note in self.notes:
            if note.phase == "step":
                lost += max(0, furthest - note.step)
                furthest = min(furthest, note.step)
            elif note.phase == MADE:
                furthest = max(furthest, note.step)
        return lost

    def dies_at(self, after_s: float) -> float | None:
        """When it was killed as it was ordered to."""
        note = self.first(DIES, after_s)
        return None if note is None else note.at_s

    def stall_s(self, begin_s: float, end_s: float) -> float:
        """The longest time from one step that was made to the next, without rest, if that falls in an interval."""
        gaps, before = [], None
        for note in self.notes:
            if note.phase == MADE and before is not None and begin_s < note.at_s <= end_s:
                gaps.append(note.at_s - before)
            if note.phase in (MADE, RESTED):
                before = note.at_s
        return max(gaps, default=0.0)


class Notes:
    """All workers that ever took part.

    Args:
        folder: where they leave their notes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self.workers: dict[int, Worker] = {}
        """By process number."""

    def read(self) -> None:
        """Take in what has been noted since."""
        for path in self._folder.glob("*.notes"):
            lines = self._new_lines(path)
            pid = int(path.stem)
            if pid not in self.workers:
                first = next(lines, None)
                if first is None:
                    continue
                self.workers[pid] = Worker(Identity(**json.loads(first)))
            for line in lines:
                at, step, phase = line.split(" ", 2)
                self.workers[pid].notes.append(Note(float(at), int(step), phase))

    def _new_lines(self, path: Path) -> Iterator[str]:
        with path.open("rb") as file:
            file.seek(self._read.get(path, 0), os.SEEK_SET)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read[path] = self._read.get(path, 0) + len(whole) + len(newline)
        return iter(whole.decode().splitlines())

    @property
    def training(self) -> list[Worker]:
        """Those that are there and have made a step."""
        return [worker for worker in self.workers.values() if worker.trains and worker.alive]
