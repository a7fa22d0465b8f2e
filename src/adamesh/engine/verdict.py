"""What a vote decides of a step, and how far one rank has come with making it: enough to finish it alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adamesh.rules.base import Hyper

__all__ = ["Progress", "Verdict"]


@dataclass(frozen=True)
class Verdict:
    """What all ranks make of a step, once every vote is in."""

    step: int
    committed: bool
    """False: it is skipped, and counts as made."""
    norm: float
    """Global norm of the mean gradient, unscaled, before clipping."""
    coefficient: float
    """The clipping coefficient."""
    entries: Mapping[str, Any]
    """What the step makes of entries of all parameter groups, from the next step on."""


@dataclass
class Progress:
    """How far this rank is with a step whose gradients have been asked for."""

    step: int
    used: set[int]
    """Numbers of the parameters that some rank used."""
    hypers: Sequence[Hyper]
    ready: bool = False
    """Everything that the commit needs is here: this rank's mean gradient, and what it mirrors."""
    updated: set[int] = field(default_factory=set)
    """Buckets whose slice here has had its update."""
    mirrored: bool = False
    """The mirrors have had theirs."""
    kept: bool = False
    """What codecs have held back is up to date."""
    landed: set[int] = field(default_factory=set)
    """Buckets whose fresh slices have all arrived."""
