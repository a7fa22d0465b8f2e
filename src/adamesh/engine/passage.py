"""Passages: one bucket's way UP along one axis of the mesh, in one or more legs.

    launch                      during backward, or in step(): the first leg
    wait, take_in, go_on        in step(): a leg has arrived, its numbers are worked on, the next one leaves
    commit                      the step is committed: what was held back of the gradient changes only now

The reducer leads all buckets from leg to leg together and knows nothing of what travels; what differs between exact
gradients, coded ones and low-rank ones is in the classes of this interface.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from adamesh.comm.base import Communicator, Work, chunk
from adamesh.comm.channel import ExactUp, state_dtype
from adamesh.comm.coder import Run

__all__ = ["Departure", "ExactPassage", "Passage"]


@dataclass(frozen=True)
class Departure:
    """What a passage is told when its bucket leaves."""

    step: int
    factor: float
    """What makes the gradient an unscaled one: coded numbers are, because what is held back of them is. Exact ones
    travel as they are."""
    idle: Sequence[Run]
    """Runs of the bucket that have no gradient."""


class Passage(ABC):
    """One bucket's way along one axis."""

    work: Work | None
    """The leg under way, or the last one."""
    total: Tensor
    """When it has arrived: the sum of this rank's chunk, or of all chunks on an axis where everybody needs all."""
    squares: float | Tensor
    """The sum of squares of ``total``, each element counted by one rank of the axis."""

    @abstractmethod
    def codes(self, step: int) -> bool:
        """Whether the gradient is coded in this step: then it must be an unscaled one when it leaves."""

    @abstractmethod
    def launch(self, send_N: Tensor, departure: Departure) -> int:
        """Start the first leg; returns the bytes this rank puts on the wire. ``send_N`` must be left alone until the
        step has ended; if it is launched again, the last launch counts.
        """

    @abstractmethod
    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        """Work on what has arrived; the sum comes out times ``scale``.

        Args:
            scale: the same at every leg.
            unused: runs of the bucket whose parameters no rank used.
        """

    @abstractmethod
    def go_on(self) -> int | None:
        """Start the next leg, also if `take_in` failed (the others wait for it); returns its bytes, None if there is
        none.
        """

    @abstractmethod
    def commit(self) -> None:
        """The sum has been applied."""

    @property
    @abstractmethod
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        """What was held back, by kind, and where in the bucket it begins."""

    @property
    @abstractmethod
    def buffer_bytes(self) -> int:
        """What is allocated, residuals aside."""


class ExactPassage(Passage):
    """Gradients as they are.

    Args:
        comm: the axis.
        everybody_needs_all: chunks of the sum are gathered again, in a second leg.
    """

    def __init__(self, comm: Communicator, *, everybody_needs_all: bool) -> None:
        self.work = None
        self.squares = 0.0
        self._up = ExactUp(comm)
        self._everybody_needs_all = everybody_needs_all
        self._gathering = False
        self._send_N: Tensor | None = None
        self._recv_N: Tensor | None = None
        self._total_S: Tensor | None = None

    def codes(self, step: int) -> bool:
        return False

    def launch(self, send_N: Tensor, departure: Departure) -> int:
        if self._recv_N is None or self._recv_N.dtype != send_N.dtype:
            self._make_room(send_N)
        assert self._recv_N is not None
        self._send_N, self._gathering = send_N, False
        self.work = self._up.launch(self._recv_N, send_N)
        return self._up.bytes_sent(send_N)

    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        if self._gathering:
            return
        self.squares = 0.0
        assert self._recv_N is not None and self._send_N is not None and self._total_S is not None
        self.squares = self._up.collect(self._recv_N, self._send_N, self._total_S, scale)

    def go_on(self) -> int | None:
        if self._gathering or not self._everybody_needs_all:
            return None
        self._gathering = True
        self.work = self._up.comm.all_gather(self.total)
        return self._up.bytes_sent(self.total)

    def commit(self) -> None:
        return None

    @property
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        return {}

    @property
    def buffer_bytes(self) -> int:
        if self._recv_N is None:
            return 0
        apart = [self.total] if self.total.dtype != self._recv_N.dtype else []
        return sum(tensor.numel() * tensor.element_size() for tensor in (self._recv_N, *apart))

    def _make_room(self, send_N: Tensor) -> None:
        """Landing buffers; the sum lies in what was received where no change of precision is needed."""
        comm, numel, dtype = self._up.comm, send_N.numel(), state_dtype(send_N.dtype)
        self._recv_N = comm.allocate(numel, send_N.dtype, send_N.device)
        if dtype == send_N.dtype:
            total_N = self._recv_N
        elif self._everybody_needs_all:
            total_N = comm.allocate(numel, dtype, send_N.device)
        else:
            self.total = self._total_S = comm.allocate(numel // comm.size, dtype, send_N.device)
            return
        self._total_S = chunk(total_N, comm.rank, comm.size)
        self.total = total_N if self._everybody_needs_all else self._total_S
