"""Apply gradients some steps late, so that their exchange hides behind the compute of the steps between.

    step t     backward gives g_t, which leaves; the update is made with g_{t-s}

Deterministic for a given s. The first s steps make no update, and at the end s gradients are outstanding.
"""

from dataclasses import dataclass

from adamesh.sync.base import Schedule, SyncPlan, require_whole

__all__ = ["Stale"]


@dataclass(frozen=True)
class Stale(Schedule):
    """Every step uses the mean gradient of all workers of ``s`` steps ago. ``Stale(0)`` is `EveryStep`.

    Args:
        s: steps between a gradient and its update. Adam loses a little with each: 1 or 2 hide an exchange.

    Raises:
        ConfigurationError: it is no whole number of at least 0.
    """

    s: int

    def __post_init__(self) -> None:
        require_whole(self, "s", self.s, 0)

    def at(self, step: int) -> SyncPlan:
        return SyncPlan(gradients=True, delay=self.s)
