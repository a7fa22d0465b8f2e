"""Which numbers are drawn together, under which title."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from adamesh.report.history import History

__all__ = ["Panel", "panels_of"]

Unit = Literal["", "s", "B"]
# Positions on a curve, and what events tell better.
_NOT_DRAWN = {"step", "samples", "seconds", "epoch", "skipped", "frozen_after"}


@dataclass(frozen=True)
class Line:
    """One number of each run."""

    table: Literal["steps", "evaluations"]
    key: str
    label: str


@dataclass(frozen=True)
class Panel:
    """One chart."""

    title: str
    lines: Sequence[Line]
    unit: Unit = ""
    note: str = ""
    """What the numbers are, in a few words."""
    from_zero: bool = False
    """The scale is linear unless the reader wants it otherwise, and begins at 0, so that heights compare."""

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


_FIRST = Panel(
    "Loss",
    [
        Line("steps", "loss", "training, each step"),
        Line("evaluations", "train_loss", "training, between tests"),
        Line("evaluations", "eval_loss", "test"),
    ],
)
_PANELS = [
    Panel("Learning rate", [Line("steps", "lr", "learning rate")], from_zero=True),
    Panel("Gradient norm", [Line("steps", "grad_norm", "global norm, before clipping")]),
    Panel(
        "Time of a step",
        [
            Line("steps", "step_s", "whole step"),
            Line("steps", "comm_exposed_s", "waiting for communication"),
            Line("steps", "data_wait_s", "waiting for data"),
        ],
        unit="s",
        note="on the worker that writes the metrics",
        from_zero=True,
    ),
    Panel(
        "Bytes sent and received in a step",
        [
            Line("steps", "bytes_up", "up: gradients"),
            Line("steps", "bytes_down", "down: parameters"),
            Line("steps", "bytes_per_step", "both, spread over the period"),
        ],
        unit="B",
        note="by the worker that writes the metrics",
        from_zero=True,
    ),
    Panel(
        "Optimizer state",
        [Line("steps", "state_bytes", "held by the worker that writes the metrics")],
        unit="B",
        from_zero=True,
    ),
    Panel(
        "Work of a step",
        [
            Line("steps", "work_s", "the worker that writes the metrics"),
            Line("steps", "work_slowest_s", "the slowest worker"),
            Line("steps", "work_others_s", "the others' median"),
        ],
        unit="s",
        note="waiting for other workers left out",
        from_zero=True,
    ),
    Panel("Slowest worker", [Line("steps", "slowest_worker", "its number")]),
    Panel(
        "Gradients at both ends of the model",
        [Line("steps", "grad_rms_first", "first weight"), Line("steps", "grad_rms_last", "last weight")],
        note="root mean square",
    ),
    Panel(
        "Dead units",
        [
            Line("steps", "dead_units", "share of all hidden units"),
            Line("steps", "dead_units_worst_layer", "share of the worst layer's"),
        ],
        from_zero=True,
    ),
]


def panels_of(histories: Iterable[History]) -> list[Panel]:
    """What can be drawn of the runs, known numbers first; one that is not known gets a panel of its own."""
    found = [(table, key) for h in histories for table, key in _keys(h)]
    known = dict.fromkeys(found)
    metrics = dict.fromkeys(key.partition("_")[2] for table, key in known if _is_metric(table, key))
    metrics.pop("loss", None)
    named = [_FIRST, *map(_metric_panel, metrics), *_PANELS]
    panels = []
    for panel in named:
        lines = [line for line in panel.lines if (line.table, line.key) in known]
        if lines:
            panels.append(Panel(panel.title, lines, panel.unit, panel.note, panel.from_zero))
    drawn = {(line.table, line.key) for panel in named for line in panel.lines}
    others = [Line(table, key, key) for table, key in known if (table, key) not in drawn and key not in _NOT_DRAWN]
    return [*panels, *(Panel(_in_words(line.key), [line]) for line in others)]


def _keys(history: History) -> Iterable[tuple[Literal["steps", "evaluations"], str]]:
    for key in history.steps.columns:
        yield "steps", key
    for key in history.evaluations.columns:
        yield "evaluations", key


def _is_metric(table: str, key: str) -> bool:
    return table == "evaluations" and key.startswith(("eval_", "train_"))


def _metric_panel(metric: str) -> Panel:
    lines = [Line("evaluations", f"train_{metric}", "training"), Line("evaluations", f"eval_{metric}", "test")]
    return Panel(_in_words(metric), lines)


def _in_words(key: str) -> str:
    words = key.replace("_", " ").strip()
    return words[:1].upper() + words[1:]
