"""Feedback: what a codec drops is kept, and sent later (Seide et al. 2014; Karimireddy et al. 2019).

    x = g + e        payload = encode(x)        e <- x - decode(payload), once the step is committed

With a decay (SparseLoCo, Sarfi et al. 2025) what is kept fades: x = g + decay e.

A record only: the residual ``e`` is memory of a worker, and whoever holds the memory does the arithmetic
(`adamesh.comm.coder.Coder`).
"""

from dataclasses import dataclass

from adamesh.codecs.base import Codec
from adamesh.errors import ConfigurationError

__all__ = ["Feedback"]


@dataclass(frozen=True)
class Feedback:
    """A codec whose error is sent later.

    Args:
        codec: any; those that say ``needs_feedback`` are refused without.
        decay: share of what was held back that is still there the next time.

    Raises:
        ConfigurationError: it is not a codec, or one that keeps a residual by itself, or the decay is out of range.
    """

    codec: Codec
    decay: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.codec, Codec):
            raise ConfigurationError(
                f"Feedback({self.codec!r}): must be a codec, as in Feedback(Int4()). LowRank keeps a residual by "
                "itself, and Warmup goes around feedback: Warmup(Feedback(Int4()), steps=500)"
            )
        if not 0.0 < self.decay <= 1.0:
            raise ConfigurationError(
                f"Feedback({self.codec}, decay={self.decay}): must be above 0 and at most 1, as in 0.95"
            )
