"""Warmup: exact at first, coded from a given step on."""

from dataclasses import dataclass

from adamesh.codecs.base import Codec
from adamesh.codecs.feedback import Feedback
from adamesh.codecs.frozen import Frozen
from adamesh.codecs.lowrank import LowRank
from adamesh.errors import ConfigurationError

__all__ = ["Warmup"]


@dataclass(frozen=True)
class Warmup:
    """Nothing is coded in steps 0 to ``steps - 1``: gradients are at their largest then, and Adam's moments unset.

    The phase depends on the number of the step alone, so that it is the same on every worker, and after a resume.

    Args:
        coding: a codec, or one with feedback.
        steps: how many steps are exact.

    Raises:
        ConfigurationError: fewer than one step, or not a codec.
    """

    coding: Codec | Feedback | LowRank
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigurationError(f"Warmup(steps={self.steps}): must be at least 1; leave Warmup out for none")
        if isinstance(self.coding, Warmup):
            raise ConfigurationError(f"{self}: a warm-up inside a warm-up; give the number of exact steps once")
        if isinstance(self.coding, Frozen):
            raise ConfigurationError(
                f"{self}: what is exact until the second moments are frozen needs no warm-up; "
                "OneBitAdam(freeze_at=...) says when that is"
            )
