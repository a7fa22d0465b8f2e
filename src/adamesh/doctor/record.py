"""Reads what a run has left in its folder so far, as far as it can be read; what cannot is told."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adamesh.doctor.last_words import LastWords, read_last_words
from adamesh.doctor.series import Series
from adamesh.errors import ConfigurationError
from adamesh.train.config import load_config
from adamesh.train.events import Event, read_events
from adamesh.train.settings import RunConfig

__all__ = ["Record", "State", "read_record"]

State = Literal["finished", "interrupted", "failed", "unfinished"]
"""unfinished: it still goes on, or was killed; the folder does not tell which."""


@dataclass(frozen=True)
class Record:
    """All that is known of a run."""

    folder: Path
    config: RunConfig | None
    """None: it cannot be read, or the folder is not one of ``adamesh train``."""
    lines: Sequence[Mapping[str, float]]
    """Of the steps, in their order; null is NaN."""
    evaluations: Sequence[Mapping[str, float]]
    events: Sequence[Event]
    summary: Mapping[str, Any]
    """Empty unless the run has ended in good order."""
    last_words: LastWords | None
    """Why it failed, if its logs say so."""
    unreadable: Sequence[str] = field(default_factory=tuple)
    """What could not be read, a sentence each."""

    @property
    def state(self) -> State:
        if self.last_words is not None:
            return "failed"
        if not self.summary:
            return "unfinished"
        return "interrupted" if self.summary.get("stopped") == "interrupted" else "finished"

    @property
    def steps(self) -> int:
        """The last one that is known."""
        return int(self.lines[-1]["step"]) if self.lines else 0

    @property
    def num_workers(self) -> int:
        """As many as the run was started with last."""
        if "world_size" in self.summary:
            return int(self.summary["world_size"])
        return 1 if self.config is None else self.config.nproc

    def series(self, key: str) -> Series:
        """The lines that have this key."""
        return _series(key, [line for line in self.lines if key in line])

    def together(self, *keys: str, skip_first: int = 0) -> list[Series]:
        """The lines that have finite numbers for all these keys, but those of the first steps: a series for each key,
        of one length.
        """
        late = [line for line in self.lines if line["step"] > skip_first]
        chosen = [line for line in late if all(isfinite(line.get(key, nan)) for key in keys)]
        return [_series(key, chosen) for key in keys]

    def events_of(self, *kinds: str) -> list[Event]:
        """Events of these kinds, in order."""
        return [event for event in self.events if event.kind in kinds]


def _series(key: str, lines: Sequence[Mapping[str, float]]) -> Series:
    steps = np.array([line["step"] for line in lines], dtype=np.int64)
    return Series(steps, np.array([line[key] for line in lines], dtype=np.float64))


def read_record(folder: Path) -> Record:
    """Everything in a run's folder that can be read, also while the run goes on.

    Raises:
        ConfigurationError: the folder is not there, or holds nothing of a run.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: is no folder; give that of a run, such as runs/20250131-101530-digits")
    names = ("metrics.jsonl", "events.jsonl", "config.toml", "summary.json")
    if not any((folder / name).is_file() for name in names):
        raise ConfigurationError(f"{folder}: holds no run (none of {', '.join(names)}); give the folder of one")
    unreadable: list[str] = []
    config = _config(folder / "config.toml", unreadable)
    summary = _summary(folder / "summary.json", unreadable)
    lines, evaluations = _metrics(folder / "metrics.jsonl", unreadable)
    events = _events(folder / "events.jsonl", unreadable)
    last_words = read_last_words(folder, unless_before=folder / "summary.json" if summary else None)
    return Record(folder, config, lines, evaluations, events, summary, last_words, unreadable)


def _config(path: Path, unreadable: list[str]) -> RunConfig | None:
    try:
        return load_config(path)
    except ConfigurationError as error:
        unreadable.append(f"{error}; the run's settings are not known")
        return None


def _summary(path: Path, unreadable: list[str]) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        unreadable.append(f"{path.name}: cannot be read ({error}); taken for a run that has not ended")
        return {}
    return summary if isinstance(summary, dict) else {}


def _metrics(path: Path, unreadable: list[str]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Lines of steps and of evaluations, each by its step; of two for the same step, the later one counts."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        unreadable.append(f"{path.name}: cannot be read ({error.strerror}); nothing is known of the steps")
        return [], []
    steps: dict[float, dict[str, float]] = {}
    evaluations: dict[float, dict[str, float]] = {}
    broken = []
    for number, text in enumerate(texts, start=1):
        line = _numbers(text)
        if line is None:
            broken.append(number)
        elif "loss" in line:
            steps[line["step"]] = line
        else:
            evaluations[line["step"]] = line
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        what = "line" if len(broken) == 1 else "lines"
        cut = ", which is still being written or was cut short" if broken == [len(texts)] else ""
        unreadable.append(f"{path.name}: {len(broken)} of {len(texts)} lines left out ({what} {shown}{cut})")
    return [steps[key] for key in sorted(steps)], [evaluations[key] for key in sorted(evaluations)]


def _numbers(text: str) -> dict[str, float] | None:
    """A line's numbers; None where it is no line of metrics."""
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict) or not _is_number(line.get("step")):
        return None
    numbers = {key: float("nan") if value is None else float(value) for key, value in line.items() if _may_be(value)}
    return numbers if len(numbers) == len(line) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _may_be(value: object) -> bool:
    return value is None or _is_number(value)


def _events(path: Path, unreadable: list[str]) -> list[Event]:
    try:
        return read_events(path)
    except OSError as error:
        unreadable.append(f"{path.name}: cannot be read ({error.strerror})")
        return []
