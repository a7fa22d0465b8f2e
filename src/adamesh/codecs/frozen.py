"""Frozen: exact until the second moments are frozen, coded from then on (1-bit Adam, Tang et al. 2021)."""

from dataclasses import dataclass

from adamesh.codecs.base import Codec
from adamesh.codecs.feedback import Feedback
from adamesh.codecs.lowrank import LowRank
from adamesh.codecs.momentum import Momentum
from adamesh.errors import ConfigurationError

__all__ = ["Frozen"]


@dataclass(frozen=True)
class Frozen:
    """Nothing is coded before the optimizer's second moments are frozen, which all workers do after the same step.

    A second moment learned of coded gradients would be one of the codec's errors. For `adamesh.OneBitAdam`.

    Args:
        coding: a codec, or one with feedback, or between islands `Momentum`.

    Raises:
        ConfigurationError: not a codec, or another phase.
    """

    coding: Codec | Feedback | LowRank | Momentum

    def __post_init__(self) -> None:
        if not isinstance(self.coding, Codec | Feedback | LowRank | Momentum):
            raise ConfigurationError(
                f"Frozen({self.coding!r}): must be a codec, as in Frozen(Feedback(Sign())). Until the second moments "
                "are frozen everything is exact, so a warm-up has no place in it: OneBitAdam(freeze_at=...) says when"
            )
