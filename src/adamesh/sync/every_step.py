"""Agree every step: synchronous data parallelism, the exact schedule."""

from dataclasses import dataclass

from adamesh.sync.base import Schedule, SyncPlan

__all__ = ["EveryStep"]


@dataclass(frozen=True)
class EveryStep(Schedule):
    """Every step uses the mean gradient of all workers."""

    def at(self, step: int) -> SyncPlan:
        return SyncPlan(gradients=True)
