"""What a schedule is: a pure function ``step -> SyncPlan``, the same on every rank."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from adamesh.errors import ConfigurationError

__all__ = ["PARAMS", "Schedule", "SyncPlan", "require_whole"]

PARAMS = 0
"""What `SyncPlan.averages` calls parameters; the moments are called by their order, 1 and 2."""


@dataclass(frozen=True)
class SyncPlan:
    """What islands do together in one step; the engine reads this record and nothing else of a schedule."""

    gradients: bool
    """Owners average their reduced gradients across islands before the update. If not, the step is an island's own."""

    averages: tuple[int, ...] = ()
    """What islands average after the update: parameters (0), first moments (1), second moments (2)."""


class Schedule(ABC):
    """When islands agree."""

    @property
    @abstractmethod
    def every_step(self) -> bool:
        """Whether each step is an exact one: the mean gradient of all workers, applied at once."""

    @abstractmethod
    def at(self, step: int) -> SyncPlan:
        """What happens in step number ``step``, counted from 0. Pure: no clock, no state, no rank."""


def require_whole(of: object, name: str, value: object, least: int) -> None:
    """Refuse a setting that is no whole number of at least ``least``.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(
            f"{type(of).__name__}({name}={value!r}): must be a whole number of at least {least}, as in {name}={least}"
        )
