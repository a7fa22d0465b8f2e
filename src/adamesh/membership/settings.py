"""How soon a worker is given up."""

import math
from dataclasses import dataclass

from adamesh.errors import ConfigurationError

__all__ = ["Patience"]


@dataclass(frozen=True)
class Patience:
    """How long others are waited for, in seconds.

    Raises:
        ConfigurationError: one of them is not positive.
    """

    silence_s: float = 0.5
    """A member that is not heard for so long is suspected; up to four times as long if it is irregularly heard."""
    start_s: float = 10.0
    """The same of a member that has only just started: programs are loaded then, which holds up everything else."""
    hang_s: float = 60.0
    """A worker that all others wait for and that does nothing for so long, and for 20 usual steps, is suspected."""
    quorum_s: float = 30.0
    """A worker that cannot reach a majority for so long gives up."""

    def __post_init__(self) -> None:
        for name, seconds in vars(self).items():
            if not 0 < seconds < math.inf:
                raise ConfigurationError(f"{name}={seconds} must be a positive number of seconds")

    @property
    def beat_s(self) -> float:
        """Between two signs of life of a sentinel."""
        return self.silence_s / 10
