"""W ranks as threads of one process: for tests of everything above, and of what happens when workers fail.

Results do not depend on how threads are scheduled. Data moves when the *last* participant launches, so a
buffer that is touched too early is caught as it would be on a real network, and a timeout is not waited
for but *found*: when every rank that still runs waits for another, nothing can arrive any more and all of
them time out at once. The real time limit is only for ranks that hang outside a collective.

CPU only, and no dropout: threads share one global random state.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Mailbox, Mesh, Work, chunk
from adamesh.comm.faults import Call, Delay, Drop, Fault, Kill, WorkerKilled
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.thread_mailbox import PostOffice, ThreadMailbox
from adamesh.errors import CommunicationError, CommunicationTimeout, ConfigurationError, PeerLost

__all__ = ["Call", "Delay", "Drop", "Fault", "Group", "Hub", "Kill", "ThreadWorld", "WorkerKilled", "join"]


@dataclass(frozen=True)
class Contribution:
    """What one rank brought to a collective."""

    signature: str
    """What all ranks must agree on: the kind of collective, lengths, dtype, source."""
    sent: Any
    receive: Callable[[Sequence[Any]], None]
    """Fill this rank's own buffers, given what everybody sent, by rank."""


@dataclass(eq=False)
class Meeting:
    """One collective of one group, while ranks (of the group) arrive."""

    arrived: dict[int, Contribution] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    moved: bool = False
    disagreement: str | None = None


@dataclass(eq=False)
class Group:
    """The ranks that one communicator joins, and their collectives under way, by sequence number."""

    name: str
    members: tuple[int, ...]
    """The ranks of the world, by rank of the group."""
    meetings: dict[int, Meeting] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    """Workers (of the world) that take part in nothing more of this group, and may in others."""
    offices: dict[int, PostOffice] = field(default_factory=dict)
    """Of its mailboxes, by the order in which each rank opens them."""


class Hub:
    """Where the ranks of one run meet: one lock, one condition, and who is still there."""

    def __init__(self, num_ranks: int, faults: Sequence[Fault], timeout_s: float) -> None:
        self.num_operations = [0] * num_ranks
        self._faults = faults
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._running = set(range(num_ranks))
        self._waiting: dict[int, tuple[Group, Meeting]] = {}
        self._timed_out: set[int] = set()

    def launch(self, group: Group, rank: int, number: int, contribution: Contribution) -> Meeting:
        """Bring a contribution; the last to arrive moves the data for everybody."""
        worker = group.members[rank]
        arrives = self._suffer(worker)
        with self._changed:
            meeting = group.meetings.setdefault(number, Meeting())
            if not arrives:
                meeting.dropped.add(rank)
                return meeting
            meeting.arrived[rank] = contribution
            if len(meeting.arrived) < len(group.members):
                return meeting
            del group.meetings[number]
            by_rank = [meeting.arrived[member] for member in range(len(group.members))]
            if len({brought.signature for brought in by_rank}) > 1:
                meeting.disagreement = "; ".join(f"rank {r}: {c.signature}" for r, c in enumerate(by_rank))
            else:
                for brought in by_rank:
                    brought.receive([other.sent for other in by_rank])
                meeting.moved = True
            self._changed.notify_all()
        return meeting

    def wait(self, group: Group, rank: int, meeting: Meeting, what: str) -> None:
        """Block until the data has moved, or until it is certain that it never will."""
        worker = group.members[rank]
        with self._changed:
            self._check_running(worker)
            self._waiting[worker] = (group, meeting)
            self._find_timeouts()
            self._changed.wait_for(lambda: self._settled(worker), timeout=self._timeout_s)
            del self._waiting[worker]
            # Found to be stuck with everybody else: then it does not matter who is woken and ends first.
            lost = [] if worker in self._timed_out else self._lost(group, meeting)
            self._timed_out.discard(worker)
        if meeting.moved:
            return
        if meeting.disagreement is not None:
            raise CommunicationError(
                f"{what}: ranks launched different collectives ({meeting.disagreement}); "
                "every rank must launch the same ones in the same order"
            )
        if lost:
            raise PeerLost(
                f"{what}: rank {', '.join(map(str, lost))} of the world ended before taking part; see its own error"
            )
        missing = sorted(set(group.members) - {group.members[member] for member in meeting.arrived})
        raise CommunicationTimeout(
            f"{what}: nothing came from rank {', '.join(map(str, missing))} of the world; "
            f"see whether it waits elsewhere, hangs, or lost its message (limit {self._timeout_s} s)"
        )

    def open_mailbox(self, group: Group, rank: int, number: int) -> Mailbox:
        """A rank's end of the group's mailbox ``number``."""
        with self._changed:
            if number not in group.offices:
                group.offices[number] = PostOffice(group.members, self._running, self._changed, self._timeout_s)
            office = group.offices[number]
        return ThreadMailbox(office, rank, lambda: self._suffer(group.members[rank]))

    def leave(self, group: Group, worker: int) -> None:
        """The rank has given up this group, and goes on in another one."""
        with self._changed:
            group.left.add(worker)
            self._changed.notify_all()

    def end(self, worker: int) -> None:
        """The rank takes part in nothing from now on."""
        with self._changed:
            self._running.discard(worker)
            self._find_timeouts()
            self._changed.notify_all()

    def _suffer(self, worker: int) -> bool:
        """Count an operation and let its faults happen; returns whether its contribution will arrive."""
        with self._changed:
            self._check_running(worker)
            operation = self.num_operations[worker]
            self.num_operations[worker] += 1
        arrives = True
        # Without the lock: a rank that sleeps must not hold up the others.
        for fault in self._faults:
            if (fault.rank, fault.operation) != (worker, operation):
                continue
            match fault:
                case Call(callback=callback):
                    callback()
                case Delay(seconds=seconds):
                    time.sleep(seconds)
                case Drop():
                    arrives = False
                case Kill():
                    self.end(worker)
                    raise WorkerKilled(f"rank {worker} was killed at its operation {operation}")
        return arrives

    def _check_running(self, worker: int) -> None:
        if worker not in self._running:
            raise WorkerKilled(f"rank {worker} was killed and takes part in nothing any more")

    def _lost(self, group: Group, meeting: Meeting) -> list[int]:
        """Who has ended and is still missing; a dropped contribution is a silence, not a loss."""
        missing = set(range(len(group.members))) - meeting.arrived.keys() - meeting.dropped
        gone = group.left | (set(group.members) - self._running)
        return sorted(group.members[rank] for rank in missing if group.members[rank] in gone)

    def _settled(self, worker: int) -> bool:
        group, meeting = self._waiting[worker]
        return (
            meeting.moved
            or meeting.disagreement is not None
            or worker in self._timed_out
            or bool(self._lost(group, meeting))
        )

    def _find_timeouts(self) -> None:
        """If every running rank waits and none can go on, no message will ever come."""
        everybody_waits = self._running == self._waiting.keys()
        if everybody_waits and not any(self._settled(worker) for worker in self._waiting):
            self._timed_out |= self._running
            self._changed.notify_all()


class ThreadCommunicator(Communicator):
    """One rank's end of a group; made by `ThreadWorld`."""

    sums_natively = False

    def __init__(self, hub: Hub, group: Group, rank: int) -> None:
        self.rank = rank
        self.size = len(group.members)
        self._hub = hub
        self._group = group
        self._num_launched = 0
        self._num_exchanged = 0
        self._num_mailboxes = 0

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros(numel, dtype=dtype, device=device)

    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        assert recv_N.numel() == send_N.numel(), (recv_N.numel(), send_N.numel())
        self._check_buffers(recv_N, send_N)

        def receive(sent: Sequence[Tensor]) -> None:
            for peer in self._peers():
                _copy(chunk(recv_N, peer, self.size), chunk(sent[peer], self.rank, self.size))

        return self._launch(f"all_to_all of {send_N.numel()} {send_N.dtype}", send_N, receive)

    def all_to_all_uneven(self, recv: Sequence[Tensor], send: Sequence[Tensor]) -> Work:
        assert len(recv) == len(send) == self.size, (len(recv), len(send), self.size)

        def receive(sent: Sequence[Sequence[Tensor]]) -> None:
            for peer in self._peers():
                _copy(recv[peer], sent[peer][self.rank])

        # Lengths are a matter of each pair: _copy asserts them.
        return self._launch(f"all_to_all_uneven of {send[0].dtype}", list(send), receive)

    def all_gather(self, buffer_N: Tensor) -> Work:
        self._check_buffers(buffer_N)

        def receive(sent: Sequence[Tensor]) -> None:
            for peer in self._peers():
                _copy(chunk(buffer_N, peer, self.size), chunk(sent[peer], peer, self.size))

        return self._launch(f"all_gather of {buffer_N.numel()} {buffer_N.dtype}", buffer_N, receive)

    def reduce_scatter(self, recv_S: Tensor, send_N: Tensor) -> Work:
        raise NotImplementedError("threads do not sum; use all_to_all and sum the chunks")

    def broadcast(self, tensor: Tensor, src: int) -> Work:
        assert 0 <= src < self.size, (src, self.size)
        assert tensor.is_contiguous(), tensor.stride()

        def receive(sent: Sequence[Tensor]) -> None:
            if self.rank != src:
                _copy(tensor, sent[src])

        return self._launch(f"broadcast of {tuple(tensor.shape)} {tensor.dtype} from rank {src}", tensor, receive)

    def swap(self, message: bytes) -> list[bytes]:
        received: list[bytes] = []
        self._num_exchanged += 1
        # Negative numbers: control messages meet among themselves.
        self._meet(-self._num_exchanged, f"exchange of {len(message)} bytes", message, received.extend).wait()
        return received

    def open_mailbox(self) -> Mailbox:
        self._num_mailboxes += 1
        return self._hub.open_mailbox(self._group, self.rank, self._num_mailboxes)

    def _peers(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def _check_buffers(self, *buffers: Tensor) -> None:
        for buffer_N in buffers:
            shape = tuple(buffer_N.shape)
            assert len(shape) == 1 and shape[0] % self.size == 0, (shape, self.size)

    def _launch(self, signature: str, sent: object, receive: Callable[[Sequence[Any]], None]) -> Work:
        self._num_launched += 1
        return self._meet(self._num_launched - 1, signature, sent, receive)

    def _meet(self, number: int, signature: str, sent: object, receive: Callable[[Sequence[Any]], None]) -> Work:
        meeting = self._hub.launch(self._group, self.rank, number, Contribution(signature, sent, receive))
        what = f"{signature}, number {number} on rank {self.rank} of {self.size} ({self._group.name})"
        return ThreadWork(self._hub, self._group, self.rank, meeting, what)


class ThreadWork(Work):
    """One rank's part in a meeting."""

    def __init__(self, hub: Hub, group: Group, rank: int, meeting: Meeting, what: str) -> None:
        self._hub = hub
        self._group = group
        self._rank = rank
        self._meeting = meeting
        self._what = what

    def wait(self) -> None:
        self._hub.wait(self._group, self._rank, self._meeting, self._what)


class ThreadWorld:
    """``num_replicas`` islands of ``num_shards`` workers, each a thread.

    Args:
        num_replicas: islands.
        num_shards: workers in an island.
        faults: what goes wrong, each time `run` is called.
        timeout_s: real seconds after which a rank gives up on one that runs but does not come.

    >>> def everybody(mesh: Mesh) -> list[str]:
    ...     return [message.decode() for message in mesh.world.exchange(f"I am {mesh.world.rank}".encode())]
    >>> ThreadWorld(1, 2).run(everybody)
    [['I am 0', 'I am 1'], ['I am 0', 'I am 1']]
    """

    def __init__(
        self, num_replicas: int, num_shards: int, faults: Sequence[Fault] = (), timeout_s: float = 10.0
    ) -> None:
        if num_replicas < 1 or num_shards < 1:
            raise ConfigurationError(f"a world of shape ({num_replicas}, {num_shards}) has no rank; use 1 or more")
        self.shape = (num_replicas, num_shards)
        self.size = num_replicas * num_shards
        for fault in faults:
            if not 0 <= fault.rank < self.size:
                raise ConfigurationError(f"{fault} names a rank outside this world; ranks are 0 to {self.size - 1}")
        self.num_operations: list[int] = [0] * self.size
        """How many operations each rank launched in the last run, on all its communicators together."""
        self._faults = tuple(faults)
        self._timeout_s = timeout_s

    def run(self, fn: Callable[..., Any], *args: Any, return_exceptions: bool = False) -> list[Any]:
        """Call ``fn(mesh, *args)`` on every rank at once.

        Returns:
            What each returned, by rank of the world; with ``return_exceptions``, or what it raised.

        Raises:
            BaseException: the lowest rank's that is no consequence of another's.
        """
        hub = Hub(self.size, self._faults, self._timeout_s)
        self.num_operations = hub.num_operations
        results: list[Any] = [None] * self.size
        errors: dict[int, BaseException] = {}

        def live(rank: int, mesh: Mesh) -> None:
            # Grad mode belongs to a thread, so this one starts with gradients on, wherever run() is called.
            try:
                results[rank] = fn(mesh, *args)
            except BaseException as error:  # a test's own failure (pytest.fail) is one, too
                error.add_note(f"(rank {rank} of {self.size})")
                errors[rank] = error
            finally:
                hub.end(rank)

        threads = [
            threading.Thread(target=live, args=(rank, mesh), name=f"rank {rank}", daemon=True)
            for rank, mesh in enumerate(self._meshes(hub))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors and not return_exceptions:
            raise errors[min(errors, key=lambda rank: (_distance_from_cause(errors[rank]), rank))]
        return [errors.get(rank, result) for rank, result in enumerate(results)]

    def _meshes(self, hub: Hub) -> list[Mesh]:
        num_replicas, num_shards = self.shape
        ranks = torch.arange(self.size, device="cpu").view(self.shape)
        world = Group("world", tuple(range(self.size)))
        islands = [Group("shard", tuple(row.tolist())) for row in ranks]
        counterparts = [Group("replicate", tuple(column.tolist())) for column in ranks.T]
        return [
            Mesh(
                world=(everybody := join(hub, world, rank)),
                replicate=everybody if num_shards == 1 else join(hub, counterparts[rank % num_shards], rank),
                shard=everybody if num_replicas == 1 else join(hub, islands[rank // num_shards], rank),
            )
            for rank in range(self.size)
        ]


def join(hub: Hub, group: Group, worker: int) -> Communicator:
    """A worker's end of a group."""
    if len(group.members) == 1:
        return LocalCommunicator()
    return ThreadCommunicator(hub, group, group.members.index(worker))


def _copy(target: Tensor, source: Tensor) -> None:
    assert target.shape == source.shape, (target.shape, source.shape)
    # `.data`: a network writes memory without autograd's or the version counter's knowledge, so do we.
    target.data.copy_(source.data)


def _distance_from_cause(error: BaseException | None) -> int:
    """0 for a cause, 1 for a silence, 2 for the loss of a peer (or what was raised from one)."""
    while error is not None:
        if isinstance(error, PeerLost):
            return 2
        if isinstance(error, CommunicationTimeout):
            return 1
        error = error.__cause__
    return 0
