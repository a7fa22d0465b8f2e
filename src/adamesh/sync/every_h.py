"""Agree every H steps by averaging: Local Adam, and DES-LOC, which averages moments more rarely.

    islands step alone; after each H-th step      x <- mean(x)
    after each H*Ku-th step                       m <- mean(m)
    after each H*Kv-th step                       v <- mean(v)

Beyond the papers: where momentum is averaged and second moments are not, an island takes no more of it than its own
gradients could have made beside its own second moment (Kingma & Ba 2015, section 2.1): |m| <= r sqrt(v), both
bias-corrected. Else an element of which it has hardly seen a gradient, and others have, would go off by m / eps.

Stich 2019 (local SGD), Cheng & Glasgow 2025 (Local Adam: Ku = Kv = 1), Iacob et al. 2025 (DES-LOC: Ku = 3, Kv = 6).
Moments are never reset. Where islands have made different numbers of updates of a parameter (one skipped a step, or did
not use it), they take the highest number, and what is averaged are the bias-corrected moments.
"""

from dataclasses import dataclass

from adamesh.sync.base import PARAMS, Schedule, SyncPlan, require_whole

__all__ = ["EveryH"]


@dataclass(frozen=True)
class EveryH(Schedule):
    """Islands step alone, and average parameters after every ``h``-th step.

    ``EveryH(1)`` is `EveryStep`: averaging after each step would not be the same, because second moments of an island's
    own gradients are larger than those of the mean gradient.

    Args:
        h: steps between averages of parameters.
        exp_avg: every so many times, first moments (momentum) are averaged too.
        exp_avg_sq: every so many times, second moments are averaged too.

    Raises:
        ConfigurationError: one is no whole number of at least 1.

    Examples:
        >>> [EveryH(2, exp_avg=2).at(step).averages for step in range(4)]
        [(), (0, 2), (), (0, 1, 2)]
    """

    h: int
    exp_avg: int = 1
    exp_avg_sq: int = 1

    def __post_init__(self) -> None:
        for name in ("h", "exp_avg", "exp_avg_sq"):
            require_whole(self, name, getattr(self, name), 1)

    def at(self, step: int) -> SyncPlan:
        if self.h == 1:
            return SyncPlan(gradients=True)
        periods = {PARAMS: 1, 1: self.exp_avg, 2: self.exp_avg_sq}
        due = tuple(what for what, multiple in periods.items() if (step + 1) % (self.h * multiple) == 0)
        return SyncPlan(gradients=False, averages=due)
