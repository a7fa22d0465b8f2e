"""What a wire can be given, taken apart."""

from typing import NamedTuple

from adamesh.codecs.base import Codec
from adamesh.codecs.feedback import Feedback
from adamesh.codecs.frozen import Frozen
from adamesh.codecs.lowrank import LowRank
from adamesh.codecs.momentum import Momentum
from adamesh.codecs.warmup import Warmup

__all__ = ["Coding", "Parts", "parts"]

Coding = Codec | Feedback | LowRank | Momentum | Warmup | Frozen
"""How one direction is coded."""


class Parts(NamedTuple):
    """A coding's parts."""

    codec: Codec | LowRank
    feedback: bool
    """What the codec drops is kept and sent later; LowRank does so by itself."""
    exact_steps: int = 0
    """How many steps at the start are not coded."""
    decay: float = 1.0
    """Share of what was kept that is still there the next time."""
    frozen: bool = False
    """Nothing is coded before the second moments are frozen."""
    momentum: bool = False
    """Momentum travels in the gradient's place."""

    @property
    def has_phases(self) -> bool:
        """It is exact at first."""
        return self.frozen or self.exact_steps > 0


def parts(coding: Coding) -> Parts:
    """Take a coding apart."""
    exact_steps = coding.steps if isinstance(coding, Warmup) else 0
    inner = coding.coding if isinstance(coding, Warmup | Frozen) else coding
    momentum = isinstance(inner, Momentum)
    if isinstance(inner, Momentum):
        inner = inner.coding
    frozen = isinstance(coding, Frozen)
    if isinstance(inner, Feedback):
        return Parts(inner.codec, True, exact_steps, inner.decay, frozen, momentum)
    return Parts(inner, isinstance(inner, LowRank), exact_steps, 1.0, frozen, momentum)
