"""Asynchronous: every worker at its own speed, against owners sharded over the workers themselves.

A slice has a version, the number of updates it has had. A worker pushes its own gradient of a slice with the version
that it read, and the owner

    accepts iff version now - version read <= staleness        one update with that gradient; version + 1
    else rejects                                               the gradient is dropped

and answers either way with the newest slice (Downpour SGD, Dean et al. 2012, with a bound on staleness and with Adam).
"""

from dataclasses import dataclass

from adamesh.errors import ConfigurationError
from adamesh.sync.base import Pushes, Schedule, SyncPlan, require_whole

__all__ = ["Async"]


@dataclass(frozen=True)
class Async(Schedule):
    """Workers push gradients and pull parameters, and never wait for each other.

    Every accepted push is one update with one worker's gradient, at the learning rate of the worker that pushed it:
    nothing is rescaled. So ``n`` workers make ``n`` updates where a schedule that agrees makes one with their mean;
    the learning rate to take is that of a single process with one worker's batch.

    Args:
        staleness: updates that a slice may have had since it was read.
        outstanding: pushes whose answers ``step()`` does not wait for. 0: it waits for the wire, though never for other
            workers' steps. 1: the exchange hides behind the next forward and backward, and gradients are that
            much staler.
        max_lead: steps that a worker may be ahead of the slowest before it waits (stale-synchronous parallel, Ho et
            al. 2013). That equalises the workers' rates in the long run, to the slowest's. None: nobody waits.
        compensation: the factor of ``g + factor * g * g * (p - p_read)`` (Zheng et al. 2017), for which each owner
            keeps what it last sent to each worker. 0: off.

    Raises:
        ConfigurationError: a value is out of range.
    """

    staleness: int = 8
    outstanding: int = 0
    max_lead: int | None = None
    compensation: float = 0.0

    def __post_init__(self) -> None:
        require_whole(self, "staleness", self.staleness, 0)
        require_whole(self, "outstanding", self.outstanding, 0)
        if self.max_lead is not None:
            require_whole(self, "max_lead", self.max_lead, 0)
        if not self.compensation >= 0:
            raise ConfigurationError(f"Async(compensation={self.compensation}): must be 0 (off) or above, as in 0.04")

    def at(self, step: int) -> SyncPlan:
        pushes = Pushes(self.staleness, self.outstanding, self.max_lead, self.compensation)
        return SyncPlan(gradients=True, pushes=pushes)
