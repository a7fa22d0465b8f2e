"""What a schedule is: a pure function ``step -> SyncPlan``, the same on every rank."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from adamesh.codecs.coding import Coding
from adamesh.errors import ConfigurationError
from adamesh.sync.outer import OuterRule

__all__ = ["PARAMS", "Outer", "Pushes", "Schedule", "SyncPlan", "is_every_step", "require_whole"]

PARAMS = 0
"""What `SyncPlan.averages` calls parameters; the moments are called by their order, 1 and 2."""


@dataclass(frozen=True)
class Outer:
    """What becomes of pseudo-gradients: how far islands have gone from the anchor, ``a - p``, averaged over islands."""

    rule: OuterRule
    """Moves the anchor by their mean."""
    fragments: int
    """Into how many parts all parameters are cut, each with its own rhythm."""
    blend: float
    """Share of its own parameters that an island keeps when the anchor has moved."""
    codec: Coding | None
    """How they are coded on their way between islands, there and back; None is exact."""


@dataclass(frozen=True)
class Pushes:
    """How workers that wait for nobody exchange gradients and parameters with the owners of slices."""

    staleness: int
    """Updates that a slice may have had since a gradient's worker read it; a gradient from further back is rejected."""
    outstanding: int
    """Pushes whose answers a worker does not wait for."""
    max_lead: int | None
    """Steps that a worker may be ahead of the slowest; None: any."""
    compensation: float
    """Factor of the delay compensation; 0: none."""


@dataclass(frozen=True)
class SyncPlan:
    """What islands do together in one step; the engine reads this record and nothing else of a schedule."""

    gradients: bool
    """Owners average their reduced gradients across islands before the update. If not, the step is an island's own.
    The same in every step of a schedule."""

    delay: int = 0
    """Steps between a gradient and the update with it; the same in every step of a schedule."""

    averages: tuple[int, ...] = ()
    """What islands average after the update: parameters (0), first moments (1), second moments (2)."""

    outer: Outer | None = None
    """What becomes of pseudo-gradients, if there are any; the same in every step of a schedule."""

    launch: tuple[int, ...] = ()
    """The fragments whose pseudo-gradients leave after the update,"""
    forward: tuple[int, ...] = ()
    """those whose sums are sent on to everybody,"""
    land: tuple[int, ...] = ()
    """and those whose means arrive, and move anchor and parameters."""

    pushes: Pushes | None = None
    """Workers push and pull, each at its own speed, and there are no steps that all take together. The same in every
    step of a schedule."""


class Schedule(ABC):
    """When islands agree."""

    @abstractmethod
    def at(self, step: int) -> SyncPlan:
        """What happens in step number ``step``, counted from 0. Pure: no clock, no state, no rank."""


def is_every_step(schedule: Schedule) -> bool:
    """Whether each step is an exact one: the mean gradient of all workers, applied at once."""
    return schedule.at(0) == SyncPlan(gradients=True)


def require_whole(of: object, name: str, value: object, least: int) -> None:
    """Refuse a setting that is no whole number of at least ``least``.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(
            f"{type(of).__name__}({name}={value!r}): must be a whole number of at least {least}, as in {name}={least}"
        )
