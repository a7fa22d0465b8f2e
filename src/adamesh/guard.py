"""The guard's settings: when a step is too bad to be made, and what is done about it."""

from dataclasses import dataclass
from math import inf

from adamesh.errors import ConfigurationError

__all__ = ["Guard"]


@dataclass(frozen=True)
class Guard:
    """What a guarded step must not exceed, for ``Plan(guard=...)``; ``adamesh train`` has the rest of the ladder.

    Norms and losses are judged by their logarithm against the last steps that were made: beyond the median plus
    ``threshold`` times the median absolute deviation (MAD), and beyond a multiple of the median. What is not finite is
    never let through.

    Examples:
        >>> Guard(threshold=8.0).window
        100
    """

    threshold: float = 12.0
    """MADs of the logarithm above its median from which a step is skipped."""
    floor: float = 10.0
    """A gradient norm below so many times the median is never too large, however steady norms were."""
    loss_floor: float = 2.0
    """The same for the loss."""
    window: int = 100
    """Steps that were made last, which tell what is usual."""
    warmup_steps: int = 20
    """So many steps must have been made before anything but non-finite numbers is judged."""
    check_every: int = 50
    """Steps between strong hashes of the parameters, which workers compare; a checksum is compared in every step.
    0: neither."""
    snapshot_every: int = 50
    """adamesh train: steps between snapshots in memory, to which parameters and state can be rolled back."""
    skips: int = 3
    """adamesh train: so many skipped steps in a row lead to a rollback."""
    rollbacks: int = 3
    """adamesh train: so many rollbacks without as many good steps between as a snapshot takes end the run."""

    def __post_init__(self) -> None:
        for name in ("threshold", "floor", "loss_floor"):
            least = 0 if name == "threshold" else 1
            value = getattr(self, name)
            if not least < value < inf:
                raise ConfigurationError(f"guard.{name} = {value}: must be a finite number above {least}")
        for name, least in (("window", 3), ("check_every", 0), ("snapshot_every", 1), ("skips", 1), ("rollbacks", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigurationError(f"guard.{name} = {value}: must be at least {least}")
        if not 3 <= self.warmup_steps <= self.window:
            raise ConfigurationError(
                f"guard.warmup_steps = {self.warmup_steps}: must be at least 3 and at most guard.window = {self.window}"
            )
