"""Momentum: what travels is the worker's momentum, not its gradient (1-bit Adam, Tang et al. 2021, algorithm 1).

    m_i = b1 m + (1-b1) g_i        x = m_i + e_i        m <- mean over workers of decode(encode(x))

A record only; `adamesh.engine.momentum` holds the memory and does the arithmetic.
"""

from dataclasses import dataclass

from adamesh.codecs.base import Codec
from adamesh.codecs.feedback import Feedback
from adamesh.errors import ConfigurationError

__all__ = ["Momentum"]


@dataclass(frozen=True)
class Momentum:
    """Between islands, each sends the momentum that it would have by itself, and the mean becomes everybody's.

    Momentum changes slowly and gradients do not, so a codec that is wrong by as much as what it is given is wrong by
    less. It goes inside `Frozen`, because a second moment cannot be learned of it.

    Args:
        coding: a codec, with feedback where it needs it.

    Raises:
        ConfigurationError: it is neither.
    """

    coding: Codec | Feedback

    def __post_init__(self) -> None:
        if not isinstance(self.coding, Codec | Feedback):
            raise ConfigurationError(
                f"Momentum({self.coding!r}): must be a codec, as in Momentum(Feedback(Sign())); phases go around it: "
                "Frozen(Momentum(Feedback(Sign())))"
            )
