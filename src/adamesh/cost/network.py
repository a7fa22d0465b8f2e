"""When what is sent arrives: a worker's steps, replayed over links.

A worker's port sends one thing after the other, in the order of launches, ``n / bandwidth`` each, and what has left
arrives ``latency`` later. All workers do the same at the same time, so what the others send arrives when one's own has.

    launch at t          left     = max(t, port free) + n / bandwidth        (a token bucket spares its burst)
                         arrived  = left + latency
    wait at t            t       <- max(t, arrived)                           what is waited for is *exposed*
    swap at t            launch and wait in one

What leaves during backward costs nothing as long as it arrives before it is waited for: that is the overlap. Where
workers share the machine's cores, a byte's way through the kernel takes from the worker's own time
(`Link.cpu_s_per_byte`); waiting pays that back first. Skew between workers comes on top (`adamesh.cost.forecast`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from adamesh.cost.links import Link
from adamesh.cost.trace import Axis, Trace

__all__ = ["Links", "Timing", "replay"]


@dataclass(frozen=True)
class Links:
    """Which link each axis of a mesh goes by."""

    outside: Link
    """Between hosts."""
    inside: Link
    """Between workers of an island, where an island is no larger than a host; else the same as ``outside``."""

    def of(self, axis: Axis) -> Link:
        """An axis' link."""
        return self.inside if axis == "shard" else self.outside


@dataclass(frozen=True)
class Timing:
    """Seconds of one step, the mean over a period."""

    step_s: float
    work_s: float
    """A worker's own work."""
    exposed_s: float
    """Waited for the network."""
    wire_s: float
    """That bytes took to leave, waited for or not."""


@dataclass
class _Port:
    link: Link
    free_s: float = 0.0
    tokens: float = 0.0
    busy_s: float = 0.0
    _filled_s: float = field(default=0.0)

    def send(self, now_s: float, sent: int) -> float:
        """When the last of ``sent`` bytes has left."""
        link, start_s = self.link, max(now_s, self.free_s)
        self.tokens = min(link.burst_bytes, self.tokens + (start_s - self._filled_s) * link.bytes_per_s)
        takes_s = max(0.0, sent - self.tokens) / link.bytes_per_s
        self.tokens = max(0.0, self.tokens - sent)
        self.free_s = self._filled_s = start_s + takes_s
        self.busy_s += takes_s
        return self.free_s


def replay(period: Sequence[Trace], links: Links) -> Timing:
    """Replay a period's steps, after one period that is not counted.

    Args:
        period: the steps, in order.
        links: what they send over.
    """
    ports: dict[Link, _Port] = {}
    worker = _Worker(links, ports)
    for trace in period:
        worker.step(trace)
    before = worker.now_s, worker.exposed_s, sum(port.busy_s for port in ports.values())
    for trace in period:
        worker.step(trace)
    after = worker.now_s, worker.exposed_s, sum(port.busy_s for port in ports.values())
    step_s, exposed_s, wire_s = ((late - early) / len(period) for early, late in zip(before, after, strict=True))
    return Timing(step_s, sum(trace.work_s for trace in period) / len(period), exposed_s, wire_s)


class _Worker:
    """One worker, as its steps go by."""

    def __init__(self, links: Links, ports: dict[Link, _Port]) -> None:
        self.now_s = self.exposed_s = 0.0
        self._links = links
        self._ports = ports
        self._debt_s = 0.0
        self._arrivals: Mapping[int, float] = {}

    def step(self, trace: Trace) -> None:
        """Make a step."""
        arrivals: dict[int, float] = {}
        for event in trace.events:
            self.now_s += event.work_s
            if event.kind == "wait":
                # What was launched in an earlier step (pseudo-gradients on their way) has its own number there.
                self._wait(arrivals.get(event.number, self._arrivals.get(event.number, self.now_s)))
                continue
            link = self._links.of(event.axis)
            self.now_s += link.message_s * event.messages
            self._debt_s += link.cpu_s_per_byte * event.sent
            port = self._ports.setdefault(link, _Port(link))
            arrived_s = port.send(self.now_s, event.sent) + link.latency_s if event.sent else self.now_s
            if event.kind == "swap":
                self._wait(arrived_s)
            else:
                arrivals[event.number] = arrived_s
        self.now_s += trace.rest_s
        self._arrivals = {**self._arrivals, **arrivals}

    def _wait(self, until_s: float) -> None:
        waited_s = max(0.0, until_s - self.now_s, self._debt_s)
        self.now_s += waited_s
        self.exposed_s += waited_s
        self._debt_s = 0.0
