"""What pages know of runs, as JSON: all of it at first, then what has changed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adamesh.report.facts import facts, mark_of, standing
from adamesh.report.history import History
from adamesh.report.panels import panels_of

__all__ = ["NOTHING", "Known", "told"]


@dataclass(frozen=True)
class Known:
    """What a reader has of a run's curves."""

    steps: tuple[int, int]
    """Generation, and bins of it."""
    evaluations: tuple[int, int]


NOTHING = Known((-1, 0), (-1, 0))


def told(histories: Sequence[History], known: Known = NOTHING) -> dict[str, Any]:
    """All there is to show of the runs, of their curves only what the reader lacks."""
    return {
        "panels": [panel.told() for panel in panels_of(histories)],
        "runs": [_run(history, known) for history in histories],
    }


def _run(history: History, known: Known) -> dict[str, Any]:
    now = standing(history)
    return {
        "name": history.name,
        "word": now.word,
        "ended": now.ended,
        "step": now.step,
        "total": now.total_steps,
        "silent_s": history.silent_s(),
        "facts": facts(history),
        "events": [[event.step, event.kind, event.message, mark_of(event)] for event in history.events],
        "num_events": history.num_events,
        "steps": history.steps.since(*known.steps),
        "evaluations": history.evaluations.since(*known.evaluations),
    }
