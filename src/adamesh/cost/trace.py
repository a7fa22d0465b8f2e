"""A worker's step as the network sees it: what it sends, what it waits for, and how long it works in between.

`SilentCommunicator` stands for workers that are not there. The optimizer's own engine runs on it: what it would have
sent is written down, and nothing is. So layouts, codecs and schedules are those of real steps, not a model of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Mailbox, Mesh, Work
from adamesh.comm.local import LocalCommunicator
from adamesh.errors import ConfigurationError

__all__ = ["Axis", "Event", "Recorder", "SilentCommunicator", "Trace", "silent_mesh", "typical"]

Axis = Literal["world", "shard", "replicate"]
Kind = Literal["launch", "wait", "swap"]


@dataclass(frozen=True)
class Event:
    """One thing that a worker does with the network."""

    kind: Kind
    """launch: begins to send, and works on; wait: for what was launched; swap: a short message of everybody, waited
    for at once."""
    work_s: float
    """The worker's own seconds since the event before."""
    number: int = 0
    """Of the launch, or of that which is waited for."""
    axis: Axis = "world"
    sent: int = 0
    """Bytes, to all others together."""
    messages: int = 0
    """To how many."""


@dataclass(frozen=True)
class Trace:
    """One step."""

    events: tuple[Event, ...]
    rest_s: float
    """Own seconds after the last event."""

    @property
    def work_s(self) -> float:
        """Own seconds, waiting left out."""
        return sum(event.work_s for event in self.events) + self.rest_s

    @property
    def sent(self) -> int:
        """Bytes that leave the worker, control messages too."""
        return sum(event.sent for event in self.events)


@dataclass
class Recorder:
    """Writes events down, by a clock that is given: a real one, or one that only counts."""

    clock: Callable[[], float]
    _events: list[Event] = field(default_factory=list)
    _launches: int = 0
    _last_s: float = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._events = []
        self._last_s = self.clock()

    def end(self) -> Trace:
        """It has ended."""
        return Trace(tuple(self._events), self._lap())

    def launch(self, axis: Axis, sent: int, messages: int) -> Work:
        """Something leaves."""
        self._launches += 1
        self._events.append(Event("launch", self._lap(), self._launches, axis, sent, messages))
        return _Recorded(self, self._launches)

    def wait(self, number: int) -> None:
        """Something is waited for."""
        self._events.append(Event("wait", self._lap(), number))

    def swap(self, axis: Axis, sent: int, messages: int) -> None:
        """Everybody says something short."""
        self._events.append(Event("swap", self._lap(), 0, axis, sent, messages))

    def _lap(self) -> float:
        now_s, before_s = self.clock(), self._last_s
        self._last_s = now_s
        return now_s - before_s


@dataclass(frozen=True)
class _Recorded(Work):
    recorder: Recorder
    number: int

    def wait(self) -> None:
        self.recorder.wait(self.number)


class SilentCommunicator(Communicator):
    """Among ranks of which only this one is there: buffers that others would fill keep what they held.

    All agree with whatever this rank says in a short message.
    """

    sums_natively = False

    def __init__(self, rank: int, size: int, axis: Axis, recorder: Recorder) -> None:
        self.rank = rank
        self.size = size
        self._axis = axis
        self._recorder = recorder

    def reaches(self, device: torch.device) -> bool:
        return True

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros(numel, dtype=dtype, device=device)

    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        return self._launch(_bytes(send_N) // self.size * (self.size - 1))

    def all_to_all_uneven(self, recv: Sequence[Tensor], send: Sequence[Tensor]) -> Work:
        others = [tensor for peer, tensor in enumerate(send) if peer != self.rank and tensor.numel()]
        return self._recorder.launch(self._axis, sum(map(_bytes, others)), len(others))

    def all_gather(self, buffer_N: Tensor) -> Work:
        return self._launch(_bytes(buffer_N) // self.size * (self.size - 1))

    def reduce_scatter(self, recv_S: Tensor, send_N: Tensor) -> Work:
        raise NotImplementedError("sums are the engine's own here, as over Gloo")

    def broadcast(self, tensor: Tensor, src: int) -> Work:
        return self._launch(_bytes(tensor) * (self.size - 1) if src == self.rank else 0)

    def swap(self, message: bytes) -> list[bytes]:
        self._recorder.swap(self._axis, len(message) * (self.size - 1), self.size - 1)
        return [message] * self.size

    def open_mailbox(self) -> Mailbox:
        raise ConfigurationError(
            "sync = async cannot be planned: its workers write letters at times that depend on each other's speed. "
            "adamesh bench async measures it; the simulation of fleets has it"
        )

    def _launch(self, sent: int) -> Work:
        return self._recorder.launch(self._axis, sent, self.size - 1)


def silent_mesh(islands: int, island_size: int, recorder: Recorder) -> Mesh:
    """The first worker's view of a mesh, with nobody else in it."""

    def among(size: int, axis: Axis) -> Communicator:
        return LocalCommunicator() if size == 1 else SilentCommunicator(0, size, axis, recorder)

    world = among(islands * island_size, "world")
    return Mesh(
        world=world,
        replicate=world if island_size == 1 else among(islands, "replicate"),
        shard=world if islands == 1 else among(island_size, "shard"),
    )


def typical(traces: Sequence[Trace]) -> Trace:
    """The step whose work between events is the median of several steps that did the same.

    Args:
        traces: at least one; all of the same events.
    """
    first = traces[0]
    assert all(len(trace.events) == len(first.events) for trace in traces)
    works = zip(*([event.work_s for event in trace.events] for trace in traces), strict=True)
    events = (
        Event(event.kind, median(work), event.number, event.axis, event.sent, event.messages)
        for event, work in zip(first.events, works, strict=True)
    )
    return Trace(tuple(events), median(trace.rest_s for trace in traces))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
