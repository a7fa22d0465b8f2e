"""What a communicator is: the few collectives the engine needs, and nothing else.

Buffers are flat and cut into ``size`` equal *chunks*; chunk ``j`` belongs to rank ``j``. Shape suffixes,
here and in the engine: ``_N`` is a whole bucket, ``_S`` is one rank's chunk (shard) of it.

Collectives are matched by the order in which ranks launch them, so every rank launches the same ones in
the same order. Control messages (``exchange``) are matched among themselves: they may overtake collectives
that some ranks have launched and others not yet. Collectives are asynchronous: a buffer given to one must be
left alone until ``Work.wait()`` returned (except where the result is going to be thrown away).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.errors import StepOutOfSync

__all__ = ["Communicator", "Completed", "Mailbox", "Mesh", "Work", "chunk"]

_FRAME = 256
"""Bytes of a control message's first part."""
_TOPIC = 16


def chunk(buffer_N: Tensor, index: int, size: int) -> Tensor:
    """The ``index``-th of ``size`` equal chunks of a flat buffer, as a view."""
    length = buffer_N.numel() // size
    return buffer_N.narrow(0, index * length, length)


class Work(ABC):
    """A collective under way."""

    @abstractmethod
    def wait(self) -> None:
        """Block until the result may be used (on CUDA: until the current stream will see it).

        Raises:
            PeerLost: another rank died or failed before it took part.
            CommunicationTimeout: another rank did not take part within the communicator's timeout.
        """


class Completed(Work):
    """A collective that had nothing to wait for."""

    def wait(self) -> None:
        return None


class Mailbox(ABC):
    """Letters between ranks that wait for nobody: what is no collective, and matched by no order of launches.

    Each rank has one *inbox*, which one thread of it empties, whoever writes; an *answer* goes to a rank that has said
    beforehand where it shall land. A letter is a flat, contiguous uint8 tensor on the CPU, to be left alone until its
    `Work` was waited for. Letters from one rank to another arrive in the order in which they were posted; so do
    answers on one line.
    """

    rank: int
    size: int

    @abstractmethod
    def post(self, letter: Tensor, to: int) -> Work:
        """Send a letter to the inbox of another rank."""

    @abstractmethod
    def receive_any(self, buffer: Tensor) -> int:
        """Block until there is a letter in this rank's inbox, and take it; returns who wrote it.

        Args:
            buffer: as long as any letter; its first bytes are overwritten.

        Raises:
            CommunicationTimeout: nobody wrote within the timeout. (That a rank is lost is told to those who write to it
                or wait for its answer, not here.)
        """

    @abstractmethod
    def answer(self, letter: Tensor, to: int, line: int) -> Work:
        """Send a letter to where rank ``to`` awaits it, or is going to."""

    @abstractmethod
    def await_answer(self, buffer: Tensor, of: int, line: int) -> Work:
        """Let the next answer of another rank on a line land in ``buffer``, which is as long as it.

        Args:
            buffer: to be left alone until the work was waited for.
            of: who answers.
            line: a number from 0 on.
        """


class Communicator(ABC):
    """The collectives among ``size`` ranks, of which this is number ``rank``."""

    rank: int
    size: int
    sums_natively: bool
    """Whether ``reduce_scatter`` is the backend's own (NCCL). Where it is not, the engine moves chunks with
    ``all_to_all`` and sums them itself, in rank order."""

    def reaches(self, device: torch.device) -> bool:
        """Whether buffers on such a device are moved; `adamesh.comm.staged` does so for those that are not."""
        return device.type == "cpu"

    @abstractmethod
    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """A zero-filled flat buffer that this communicator can move without a further copy."""

    @abstractmethod
    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        """Send chunk ``j`` of ``send_N`` to rank ``j``; chunk ``i`` of ``recv_N`` comes from rank ``i``.

        The chunk a rank would send to itself is *not* moved: ``recv_N``'s own chunk keeps what it held, and
        the caller reads its own contribution from ``send_N``.
        """

    @abstractmethod
    def all_to_all_uneven(self, recv: Sequence[Tensor], send: Sequence[Tensor]) -> Work:
        """Send ``send[j]`` to rank ``j``; ``recv[i]`` is overwritten by what comes from rank ``i``.

        Flat tensors of one dtype and of any lengths, none included; the two ends of a transfer agree on its length.
        As with `all_to_all`, nothing is moved from a rank to itself. The same tensor may be sent to several ranks.
        """

    @abstractmethod
    def all_gather(self, buffer_N: Tensor) -> Work:
        """Fill every chunk of ``buffer_N`` from its rank; this rank's own chunk is the input (in place)."""

    @abstractmethod
    def reduce_scatter(self, recv_S: Tensor, send_N: Tensor) -> Work:
        """Sum ``send_N`` over ranks in the backend's own order; this rank's chunk of it lands in ``recv_S``.

        Only where ``sums_natively`` is true.
        """

    @abstractmethod
    def broadcast(self, tensor: Tensor, src: int) -> Work:
        """Overwrite ``tensor`` (contiguous) on every rank by rank ``src``'s."""

    @abstractmethod
    def swap(self, message: bytes) -> list[bytes]:
        """Blocking: give everybody a short message of the same length on all ranks; returns all, by rank."""

    @abstractmethod
    def open_mailbox(self) -> Mailbox:
        """A mailbox of these ranks. Collective."""

    def exchange(self, message: bytes, topic: str = "exchange") -> list[bytes]:
        """Blocking: give everybody a message of any length; returns all, by rank.

        A message of up to 230 bytes is one `swap`, a longer one (on any rank) two.

        Args:
            message: what this rank has to say.
            topic: what the message is about, 16 letters at most, the same on every rank: it tells a worker
                that is in another call from one that is in this.

        Raises:
            StepOutOfSync: another rank's message is about something else; on every rank.
        """
        head = topic.encode().ljust(_TOPIC, b"\0") + len(message).to_bytes(8, "little")
        room = _FRAME - len(head)
        frames = self.swap((head + message[:room]).ljust(_FRAME, b"\0"))
        topics = [frame[:_TOPIC].rstrip(b"\0").decode() for frame in frames]
        other = next((rank for rank, name in enumerate(topics) if name != topics[0]), None)
        if other is not None:
            raise StepOutOfSync(
                f"worker {other} is in {topics[other]!r} while worker 0 is in {topics[0]!r}: every worker must make "
                "the same calls of the optimizer, adamesh.save and adamesh.load in the same order. Nothing was changed"
            )
        lengths = [int.from_bytes(frame[_TOPIC : len(head)], "little") for frame in frames]
        longest = max(lengths)
        bodies = [frame[len(head) :] for frame in frames]
        if longest > room:
            tails = self.swap(message[room:].ljust(longest - room, b"\0"))
            bodies = [body + tail for body, tail in zip(bodies, tails, strict=True)]
        return [body[:length] for body, length in zip(bodies, lengths, strict=True)]


@dataclass(frozen=True)
class Mesh:
    """Who talks to whom: all workers, this worker's island, and its counterparts on the other islands.

    ``world`` numbers ranks island by island: ``world.rank == replicate.rank * shard.size + shard.rank``.
    """

    world: Communicator
    replicate: Communicator
    shard: Communicator

    def __post_init__(self) -> None:
        assert self.world.size == self.replicate.size * self.shard.size
        assert self.world.rank == self.replicate.rank * self.shard.size + self.shard.rank

    @property
    def shape(self) -> tuple[int, int]:
        """(number of islands, workers in an island)."""
        return self.replicate.size, self.shard.size
