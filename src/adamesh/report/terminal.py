"""A run in a terminal: where it is, how fast, its loss as a curve, what happened last."""

import time
from collections.abc import Callable

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adamesh.report.facts import facts, mark_of, standing
from adamesh.report.history import History
from adamesh.report.sparkline import sparkline

__all__ = ["view", "watch"]

_EVERY_S = 1.0
_CURVE_LINES = 5
_MOST_EVENTS = 6
_FACTS = ("steps", "time left, about", "samples/s", "training loss", "workers", "sent up a step", "state per worker")
_STYLES = {"trouble": "red", "arrival": "green", "note": "dim"}


def watch(history: History, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show a run until it has ended; what is shown last stays.

    Args:
        history: of the run; read again before each look.
        console: where to.
        sleep: waits for so many seconds.
    """
    history.refresh()
    with Live(view(history, console.width), console=console, auto_refresh=False) as live:
        while history.ended is None:
            sleep(_EVERY_S)
            history.refresh()
            live.update(view(history, console.width), refresh=True)


def view(history: History, width: int) -> RenderableType:
    """One look, in so many columns."""
    now = standing(history)
    parts: list[RenderableType] = []
    if now.total_steps:
        # In a table, as a bar alone does not end its line.
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(total=now.total_steps, completed=now.step))
        parts.append(bar)
    parts += [_figures(history), *_curve(history, width - 4), *_events(history)]
    silent_s = history.silent_s()
    silent = "" if silent_s is None or silent_s < 10 or now.ended else f", last written {silent_s:.0f} s ago"
    title = Text(_printable(history.name), style="bold")
    return Panel(Group(*parts), title=title, title_align="left", subtitle=f"{now.word}{silent}", subtitle_align="right")


def _figures(history: History) -> Columns:
    known = dict(facts(history))
    chosen = [(label, known[label]) for label in _FACTS if label in known]
    chosen += [(label, value) for label, value in known.items() if label.startswith("test ")]
    told = [Text.assemble((f"{_printable(label)} ", "dim"), _printable(value), no_wrap=True) for label, value in chosen]
    return Columns(told, padding=(0, 3))


def _curve(history: History, width: int) -> list[Text]:
    column = history.steps.columns.get("loss")
    if column is None:
        return []
    bins = zip(column.total, column.count, column.bad, strict=True)
    means = [None if bad or not count else total / count for total, count, bad in bins]
    lines = sparkline(means, max(10, width), _CURVE_LINES)
    return [Text("training loss", style="dim"), *(Text(line, style="blue", no_wrap=True) for line in lines)]


def _events(history: History) -> list[Text]:
    return [
        Text(_printable(f"step {event.step:,}  {event.kind}: {event.message}"), style=_STYLES[mark_of(event)])
        for event in list(history.events)[-_MOST_EVENTS:]
    ]


def _printable(text: str) -> str:
    """Without characters that a terminal takes for commands."""
    return "".join(character if character.isprintable() else "�" for character in text)
