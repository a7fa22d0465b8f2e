"""What a schedule is: a pure function ``step -> SyncPlan``, the same on every rank."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

__all__ = ["Schedule", "SyncPlan"]


@dataclass(frozen=True)
class SyncPlan:
    """What islands do together in one step; the engine reads this record and nothing else of a schedule."""

    gradients: bool
    """Owners average their reduced gradients across islands before the update."""


class Schedule(ABC):
    """When islands agree."""

    @abstractmethod
    def at(self, step: int) -> SyncPlan:
        """What happens in step number ``step``, counted from 0. Pure: no clock, no state, no rank."""
