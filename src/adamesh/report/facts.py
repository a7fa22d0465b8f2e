"""What there is to say of a run in a few words: where it stands, and its figures."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from adamesh.report.history import History
from adamesh.train.events import Event
from adamesh.train.readable import readable_bytes, readable_s

__all__ = ["Mark", "Standing", "facts", "mark_of", "standing"]

Mark = Literal["trouble", "arrival", "note"]
_TROUBLE = {
    "bad-hardware",
    "checkpoint-failed",
    "not-frozen",
    "replica-repaired",
    "rollback",
    "skip",
    "worker-lost",
}
_ARRIVALS = {"resumed", "worker-joined"}
_ENDED = {
    "finished": "finished",
    "tolerance": "ended: the gradient norm has settled",
    "time": "ended: its time was over",
    "early-stop": "ended early: no better evaluation",
    "interrupted": "interrupted",
}


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    word: str
    ended: bool
    step: int
    total_steps: int | None


def standing(history: History) -> Standing:
    """Where a run stands, by what it has left on disk."""
    ended, step, total = history.ended, history.step, history.total_steps
    if ended is not None:
        stopped = str(ended.get("stopped"))
        return Standing(_ENDED.get(stopped, stopped), True, step, total)
    word = "not ended" if step else "no step yet"
    loss = history.last_step.get("loss", 0.0)
    if loss is None:
        word = "not ended; its last loss is not finite"
    return Standing(word, False, step, total)


def mark_of(event: Event) -> Mark:
    """Whether an event is trouble, something that comes (back), or worth a note."""
    if event.kind in _TROUBLE:
        return "trouble"
    return "arrival" if event.kind in _ARRIVALS else "note"


def facts(history: History) -> list[tuple[str, str]]:
    """(label, value), of what is known; figures of the whole run where it has ended, else of the last steps."""
    ended, step = history.ended or {}, history.last_step
    found = [
        ("task", str(ended.get("task") or history.config.get("task", "unknown"))),
        ("workers", str(ended.get("world_size") or history.config.get("nproc", "unknown"))),
        ("steps", _steps(history)),
        ("samples", _whole(ended.get("samples") or step.get("samples"))),
        ("training loss", _number(step["loss"]) if step else ""),
        *[(f"test {key[5:].replace('_', ' ')}", _number(value)) for key, value in _evaluated(history)],
        *_best(ended),
        ("time", _time(ended.get("seconds"))),
        ("samples/s", _whole(ended.get("samples_per_s") or (history.recent and history.recent.samples_per_s))),
        ("time left, about", _time(history.left_s)),
        ("waiting for data", _share(history, "data_wait_s")),
        ("waiting for communication", _share(history, "comm_exposed_s")),
        ("sent up a step", _bytes(ended.get("bytes_up_per_step", step.get("bytes_up")))),
        ("sent down a step", _bytes(ended.get("bytes_down_per_step", step.get("bytes_down")))),
        ("state per worker", _bytes(ended.get("state_bytes_per_rank", step.get("state_bytes")))),
        ("parameters", _whole(ended.get("param_count"))),
        ("events", f"{history.num_events:,}"),
        ("ledger", str((ended.get("ledger") or {}).get("digest", ""))),
    ]
    if history.num_unreadable:
        found.append(("lines that cannot be read", f"{history.num_unreadable:,}"))
    return [(label, value) for label, value in found if value]


def _steps(history: History) -> str:
    total = history.total_steps
    return f"{history.step:,}" if total is None else f"{history.step:,} of {total:,}"


def _evaluated(history: History) -> list[tuple[str, float | None]]:
    return [(key, value) for key, value in history.last_evaluation.items() if key.startswith("eval_")]


def _best(ended: object) -> list[tuple[str, str]]:
    best = ended.get("best") if isinstance(ended, dict) else None
    if not isinstance(best, dict) or best.get("value") is None:
        return []
    return [(f"best {best.get('metric')}", f"{_number(best['value'])} at step {_whole(best.get('step'))}")]


def _share(history: History, key: str) -> str:
    """Of the time in steps that were written down, on the worker that wrote."""
    part, whole = history.steps.columns.get(key), history.steps.columns.get("step_s")
    if part is None or whole is None or not sum(whole.total):
        return ""
    return f"{sum(part.total) / sum(whole.total):.1%}"


def _whole(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) and isfinite(value) else ""


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "not finite"


def _bytes(value: object) -> str:
    return readable_bytes(value) if isinstance(value, int | float) else ""


def _time(value: object) -> str:
    return readable_s(value) if isinstance(value, int | float) else ""
