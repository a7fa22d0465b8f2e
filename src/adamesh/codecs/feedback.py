"""Feedback: what a codec drops is kept, and sent later (Seide et al. 2014; Karimireddy et al. 2019).

    x = g + e        payload = encode(x)        e <- x - decode(payload), once the step is committed

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

    Raises:
        ConfigurationError: it is not a codec, or one that keeps a residual by itself.
    """

    codec: Codec

    def __post_init__(self) -> None:
        if not isinstance(self.codec, Codec):
            raise ConfigurationError(
                f"Feedback({self.codec!r}): must be a codec, as in Feedback(Int4()). LowRank keeps a residual by "
                "itself, and Warmup goes around feedback: Warmup(Feedback(Int4()), steps=500)"
            )
