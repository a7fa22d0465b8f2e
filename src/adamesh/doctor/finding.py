"""What a symptom says of a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Advice", "Answer", "Finding", "Unknown"]


@dataclass(frozen=True)
class Advice:
    """What to try."""

    what: str
    """And why, in a sentence."""
    command: str | None = None
    """To type; None: there is no command that does it."""


@dataclass(frozen=True)
class Finding:
    """The symptom is there."""

    saw: str
    """What is wrong, in a sentence."""
    evidence: Sequence[str]
    """Figures, and the steps that they are of."""
    advice: Sequence[Advice]
    causes: Sequence[str] = field(default_factory=tuple)
    """Symptoms that follow from this one, by their names."""


@dataclass(frozen=True)
class Unknown:
    """The record does not tell."""

    why: str


Answer = Finding | Unknown | None
"""None: it was looked for, and is not there."""
