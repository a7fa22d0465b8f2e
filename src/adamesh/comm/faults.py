"""What can be made to go wrong with a rank of a :class:`adamesh.comm.threads.ThreadWorld`."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Call", "Delay", "Drop", "Fault", "Kill", "WorkerKilled"]


class WorkerKilled(Exception):
    """What a killed rank sees in place of its collective; it can take part in nothing from then on."""


@dataclass(frozen=True)
class Call:
    """Run ``callback()`` in the rank's thread just before it launches its operation."""

    rank: int
    operation: int
    callback: Callable[[], object]


@dataclass(frozen=True)
class Delay:
    """The rank launches its operation ``seconds`` late."""

    rank: int
    operation: int
    seconds: float


@dataclass(frozen=True)
class Drop:
    """The rank's contribution never arrives: it and whoever waits for it get `CommunicationTimeout`."""

    rank: int
    operation: int


@dataclass(frozen=True)
class Kill:
    """The rank dies (`WorkerKilled`) in place of launching its operation; who needs it gets `PeerLost`."""

    rank: int
    operation: int


Fault = Call | Delay | Drop | Kill
"""What goes wrong when ``rank`` (of the world) launches its operation number ``operation``, counted from 0
over all its communicators. A `Communicator.exchange` of a long message is two operations."""
