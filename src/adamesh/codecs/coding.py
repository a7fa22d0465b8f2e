"""What a wire can be given, taken apart."""

from typing import NamedTuple

from adamesh.codecs.base import Codec
from adamesh.codecs.feedback import Feedback
from adamesh.codecs.lowrank import LowRank
from adamesh.codecs.warmup import Warmup

__all__ = ["Coding", "Parts", "parts"]

Coding = Codec | Feedback | LowRank | Warmup
"""How one direction is coded."""


class Parts(NamedTuple):
    """A coding's parts."""

    codec: Codec | LowRank
    feedback: bool
    """What the codec drops is kept and sent later; LowRank does so by itself."""
    exact_steps: int
    """How many steps at the start are not coded."""
    decay: float
    """Share of what was kept that is still there the next time."""


def parts(coding: Coding) -> Parts:
    """Take a coding apart."""
    inner, exact_steps = (coding.coding, coding.steps) if isinstance(coding, Warmup) else (coding, 0)
    if isinstance(inner, Feedback):
        return Parts(inner.codec, True, exact_steps, inner.decay)
    return Parts(inner, isinstance(inner, LowRank), exact_steps, 1.0)
