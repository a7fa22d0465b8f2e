"""A run's folder, read as far as it is written, and on from there: what pages and the terminal view show."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamesh.errors import ConfigurationError
from adamesh.report.binned import Binned
from adamesh.report.records import event, numbers, settings, summary
from adamesh.report.tail import Tail
from adamesh.train.events import Event

__all__ = ["History", "Recent"]

_MOST_EVENTS = 500
_RECENT_LINES = 50


@dataclass(frozen=True)
class Recent:
    """How fast the last steps were, by their own clocks."""

    seconds_per_step: float
    samples_per_s: float


class History:
    """One run, going on or ended. Reads only what training writes for readers, and writes nothing.

    Args:
        folder: of the run.
        name: what it is called; not given: its folder's name.

    Raises:
        ConfigurationError: there is no run.
    """

    def __init__(self, folder: Path, name: str = "") -> None:
        if not (folder / "config.toml").is_file():
            raise ConfigurationError(f"{folder}: holds no run (no config.toml); give the folder of one")
        self.folder = folder
        self.name = name or folder.resolve().name
        self.config: dict[str, Any] = {}
        """By dotted key, as the file has it."""
        self.summary: dict[str, Any] | None = None
        """Of the last start that ended; there may have been another since."""
        self.steps, self.evaluations = Binned(), Binned()
        self.events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        """The last ones."""
        self.num_events = 0
        self.last_step: dict[str, float | None] = {}
        """The newest line of a step."""
        self.last_evaluation: dict[str, float | None] = {}
        self.num_unreadable = 0
        """Lines that are no records."""
        self.written_s: float | None = None
        """When metrics.jsonl was last written to, on the clock of its disk."""
        self._metrics = Tail(folder / "metrics.jsonl")
        self._events = Tail(folder / "events.jsonl")
        self._stamps: dict[str, tuple[int, int, int]] = {}
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=_RECENT_LINES)
        """Step, samples and seconds in steps after each of the last lines."""
        self._seconds = 0.0

    def refresh(self) -> None:
        """Read what is new.

        Raises:
            ConfigurationError: the configuration is no TOML.
            OSError: a file is there and cannot be read.
        """
        if self._is_new("config.toml"):
            self.config = settings(self.folder / "config.toml")
        if self._is_new("summary.json"):
            self.summary = summary(self.folder / "summary.json")
        self._read_metrics()
        self._read_events()

    def close(self) -> None:
        """Nothing more will be read."""
        self._metrics.close()
        self._events.close()

    @property
    def step(self) -> int:
        """The newest that anything is known of."""
        steps = (self.last_step.get("step"), self.last_evaluation.get("step"))
        return int(max(step or 0 for step in steps))

    @property
    def total_steps(self) -> int | None:
        """Where the run ends, as far as that is known: epochs are counted in steps once one has been evaluated."""
        steps, epochs = self.config.get("steps"), self.config.get("epochs")
        if isinstance(steps, int):
            return steps
        done, epoch = self.last_evaluation.get("step"), self.last_evaluation.get("epoch")
        if isinstance(epochs, int) and done and epoch:
            return max(round(done * epochs / epoch), self.step)
        return None

    @property
    def ended(self) -> Mapping[str, Any] | None:
        """The summary, if nothing has been trained since."""
        if self.summary is None or self.summary.get("steps", 0) < self.step:
            return None
        return self.summary

    @property
    def recent(self) -> Recent | None:
        """None: there are not yet two lines."""
        if len(self._recent) < 2:
            return None
        (step, samples, seconds), (last_step, last_samples, last_seconds) = self._recent[0], self._recent[-1]
        took_s, made = last_seconds - seconds, last_step - step
        return Recent(took_s / made, (last_samples - samples) / took_s) if took_s > 0 and made > 0 else None

    @property
    def left_s(self) -> float | None:
        """Seconds in steps until the end, at the pace of the last ones; None: unknown."""
        recent, total = self.recent, self.total_steps
        if recent is None or total is None or self.ended is not None:
            return None
        return max(0, total - self.step) * recent.seconds_per_step

    def silent_s(self) -> float | None:
        """Seconds since something was written; None: nothing was yet."""
        return None if self.written_s is None else max(0.0, time.time() - self.written_s)

    def _is_new(self, name: str) -> bool:
        """Whether a file is there and is not the one that was seen last."""
        try:
            found = (self.folder / name).stat()
        except FileNotFoundError:
            return False
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        changed = self._stamps.get(name) != stamp
        self._stamps[name] = stamp
        return changed

    def _read_metrics(self) -> None:
        more = True
        while more:
            fresh = self._metrics.read()
            if fresh.again:
                self._forget()
            for line in fresh.lines:
                self._take(line)
            more = fresh.more
        path = self.folder / "metrics.jsonl"
        self.written_s = path.stat().st_mtime if path.exists() else None

    def _forget(self) -> None:
        for table in (self.steps, self.evaluations):
            table.clear()
        self._recent.clear()
        self.last_step, self.last_evaluation = {}, {}
        self.num_unreadable, self._seconds = 0, 0.0

    def _take(self, line: bytes) -> None:
        record = numbers(line)
        if record is None:
            self.num_unreadable += 1
        elif "loss" in record:
            before = self.last_step.get("step") or 0
            step, took_s = record["step"], record.get("step_s")
            assert step is not None
            # Of the steps between two lines, one was written down for all.
            self._seconds += max(0.0, step - before) * (took_s or 0.0)
            self.steps.add(record | {"seconds": self._seconds})
            self._recent.append((step, record.get("samples") or 0.0, self._seconds))
            self.last_step = record
        else:
            self.evaluations.add(record | {"seconds": self._seconds})
            self.last_evaluation = record

    def _read_events(self) -> None:
        more = True
        while more:
            fresh = self._events.read()
            if fresh.again:
                self.events.clear()
                self.num_events = 0
            for line in fresh.lines:
                found = event(line)
                if found is not None:
                    self.events.append(found)
                    self.num_events += 1
            more = fresh.more
