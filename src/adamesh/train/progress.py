"""What a run shows while it goes: a live bar on a terminal, a line now and then elsewhere.

Only the first worker shows anything.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["Display", "Handed", "display_for"]

_SECONDS_BETWEEN_LINES = 5.0


class Display(ABC):
    """Where a run reports to."""

    @abstractmethod
    def begin(self, header: Sequence[tuple[str, str]], done_steps: int, total_steps: int) -> None:
        """Show what is about to run, as (label, value) pairs, and how far it is."""

    @abstractmethod
    def step(self, done_steps: int, numbers: Mapping[str, float]) -> None:
        """A step is done; ``numbers`` are worth showing with it."""

    @abstractmethod
    def say(self, line: str) -> None:
        """Show a line that stays."""

    @abstractmethod
    def end(self) -> None:
        """Nothing is going on any more; only `summary` may follow."""

    @abstractmethod
    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        """Show (label, value) pairs as a table."""


def display_for(is_first: bool, console: Console | None = None, unit: str = "step") -> Display:
    """The display of this worker, which counts in steps or in something else."""
    if not is_first:
        return Silent()
    console = console or Console(highlight=False, markup=False)
    return LiveBar(console, unit) if console.is_terminal else Lines(console, unit)


class Handed(Display):
    """The display of a run whose first worker may be another one tomorrow: whoever is first shows it.

    Args:
        is_first: whether this worker is, now.
        make: the display, for when it is.
    """

    def __init__(self, is_first: Callable[[], bool], make: Callable[[], Display] = lambda: display_for(True)) -> None:
        self._is_first = is_first
        self._make = make
        self._shown: Display | None = None
        self._header: Sequence[tuple[str, str]] = ()
        self._steps = (0, 0)

    def begin(self, header: Sequence[tuple[str, str]], done_steps: int, total_steps: int) -> None:
        self._header, self._steps = header, (done_steps, total_steps)
        self._current()

    def step(self, done_steps: int, numbers: Mapping[str, float]) -> None:
        self._steps = (done_steps, self._steps[1])
        shown = self._current()
        if shown is not None:
            shown.step(done_steps, numbers)

    def say(self, line: str) -> None:
        shown = self._current()
        if shown is not None:
            shown.say(line)

    def end(self) -> None:
        if self._shown is not None:
            self._shown.end()

    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        if self._shown is not None:
            self._shown.summary(rows)

    def _current(self) -> Display | None:
        if self._shown is None and self._header and self._is_first():
            self._shown = self._make()
            self._shown.begin(self._header, *self._steps)
        return self._shown


class Silent(Display):
    """Shows nothing."""

    def begin(self, header: Sequence[tuple[str, str]], done_steps: int, total_steps: int) -> None:
        return None

    def step(self, done_steps: int, numbers: Mapping[str, float]) -> None:
        return None

    def say(self, line: str) -> None:
        return None

    def end(self) -> None:
        return None

    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        return None


class Lines(Display):
    """A line every few seconds, for log files."""

    def __init__(self, console: Console, unit: str = "step") -> None:
        self._console = console
        self._unit = unit
        self._total_steps = 0
        self._next_s = 0.0

    def begin(self, header: Sequence[tuple[str, str]], done_steps: int, total_steps: int) -> None:
        self._total_steps = total_steps
        _print_header(self._console, header)

    def step(self, done_steps: int, numbers: Mapping[str, float]) -> None:
        if time.monotonic() >= self._next_s or done_steps == self._total_steps:
            self._next_s = time.monotonic() + _SECONDS_BETWEEN_LINES
            self.say(f"{self._unit} {done_steps}/{self._total_steps}  {_joined(numbers)}")

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def end(self) -> None:
        return None

    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        _print_summary(self._console, rows)


class LiveBar(Display):
    """A progress bar with the last numbers beside it."""

    def __init__(self, console: Console, unit: str = "step") -> None:
        self._console = console
        self._unit = unit
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
        )
        self._bar: TaskID | None = None

    def begin(self, header: Sequence[tuple[str, str]], done_steps: int, total_steps: int) -> None:
        _print_header(self._console, header)
        self._bar = self._progress.add_task(f"{self._unit}s", completed=done_steps, total=total_steps, numbers="")
        self._progress.start()

    def step(self, done_steps: int, numbers: Mapping[str, float]) -> None:
        assert self._bar is not None
        self._progress.update(self._bar, completed=done_steps, numbers=_joined(numbers))

    def say(self, line: str) -> None:
        self._progress.console.print(line, soft_wrap=True)

    def end(self) -> None:
        self._progress.stop()

    def summary(self, rows: Sequence[tuple[str, str]]) -> None:
        _print_summary(self._console, rows)


def _joined(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _print_header(console: Console, header: Sequence[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in header)
    for label, value in header:
        console.print(f"{label:{width}}  {value}", soft_wrap=True)


def _print_summary(console: Console, rows: Sequence[tuple[str, str]]) -> None:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right", overflow="fold")
    for label, value in rows:
        table.add_row(label, value)
    console.print(table)
