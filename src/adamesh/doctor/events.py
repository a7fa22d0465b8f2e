"""Events as evidence."""

from collections.abc import Sequence

from adamesh.train.events import Event

__all__ = ["as_evidence", "steps_of"]

_MOST, _MOST_STEPS, _LONGEST = 3, 10, 240
"""Events that are quoted, steps that are named, characters of a message: the samples of a batch may fill pages."""


def as_evidence(events: Sequence[Event]) -> list[str]:
    """The first of them, each in a line or two; the rest are in events.jsonl."""
    lines = [f"step {event.step}: {_short(event.message)}" for event in events[:_MOST]]
    more = len(events) - _MOST
    return lines if more <= 0 else [*lines, f"and {more} more in events.jsonl"]


def steps_of(events: Sequence[Event]) -> str:
    """The steps they happened in."""
    more = ", ..." if len(events) > _MOST_STEPS else ""
    return f"step {', '.join(str(event.step) for event in events[:_MOST_STEPS])}{more}"


def _short(message: str) -> str:
    flat = " ".join(message.split())
    return flat if len(flat) <= _LONGEST else f"{flat[:_LONGEST]} ... (events.jsonl)"
