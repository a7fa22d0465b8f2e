"""A communicator that another thread can cut, for good: whoever waits in it is told, and so is whoever comes."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Mailbox, Work
from adamesh.errors import CommunicationError, PeerLost

__all__ = ["Severable", "Thread"]

T = TypeVar("T")


class Thread:
    """What all that belongs to one severable communicator hangs by.

    Args:
        waits: told whether the worker waits for others, whenever that changes.
    """

    def __init__(self, waits: Callable[[bool], None]) -> None:
        self.reason: str | None = None
        """Why it is cut, once it is."""
        self._waits = waits

    def run(self, operation: Callable[[], T]) -> T:
        """Begin something.

        Raises:
            PeerLost: it is cut.
        """
        if self.reason is not None:
            raise PeerLost(self.reason)
        try:
            return operation()
        except CommunicationError as error:
            if self.reason is None:
                raise
            raise PeerLost(f"{self.reason} ({error})") from error

    def wait(self, operation: Callable[[], T]) -> T:
        """Do something that may block."""
        self._waits(True)
        try:
            return self.run(operation)
        finally:
            self._waits(False)


class SeverableWork(Work):
    """A collective under way."""

    def __init__(self, thread: Thread, work: Work) -> None:
        self._thread = thread
        self._work = work

    def wait(self) -> None:
        self._thread.wait(self._work.wait)


class SeverableMailbox(Mailbox):
    """A mailbox that is cut with its communicator."""

    def __init__(self, thread: Thread, mailbox: Mailbox) -> None:
        self.rank = mailbox.rank
        self.size = mailbox.size
        self._thread = thread
        self._mailbox = mailbox

    def post(self, letter: Tensor, to: int) -> Work:
        return SeverableWork(self._thread, self._thread.run(lambda: self._mailbox.post(letter, to)))

    def receive_any(self, buffer: Tensor) -> int:
        # Whoever empties an inbox is a servant: that it waits says nothing about the worker.
        return self._thread.run(lambda: self._mailbox.receive_any(buffer))

    def answer(self, letter: Tensor, to: int, line: int) -> Work:
        return SeverableWork(self._thread, self._thread.run(lambda: self._mailbox.answer(letter, to, line)))

    def await_answer(self, buffer: Tensor, of: int, line: int) -> Work:
        return SeverableWork(self._thread, self._thread.run(lambda: self._mailbox.await_answer(buffer, of, line)))


class Severable(Communicator):
    """The collectives of another communicator, as long as they are not cut.

    Args:
        inner: does the work.
        cut: ends the connections of ``inner`` and of its mailboxes, from any thread.
        waits: told whether the worker waits for others, whenever that changes.
    """

    def __init__(self, inner: Communicator, cut: Callable[[], None], waits: Callable[[bool], None]) -> None:
        self.rank = inner.rank
        self.size = inner.size
        self.sums_natively = inner.sums_natively
        self._inner = inner
        self._cut = cut
        self._thread = Thread(waits)

    def sever(self, reason: str) -> None:
        """Let all that is under way, and all that comes, raise `PeerLost`. From any thread; again, it does nothing."""
        if self._thread.reason is None:
            self._thread.reason = reason
            self._cut()

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return self._inner.allocate(numel, dtype, device)

    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        return self._begin(lambda: self._inner.all_to_all(recv_N, send_N))

    def all_to_all_uneven(self, recv: Sequence[Tensor], send: Sequence[Tensor]) -> Work:
        return self._begin(lambda: self._inner.all_to_all_uneven(recv, send))

    def all_gather(self, buffer_N: Tensor) -> Work:
        return self._begin(lambda: self._inner.all_gather(buffer_N))

    def reduce_scatter(self, recv_S: Tensor, send_N: Tensor) -> Work:
        return self._begin(lambda: self._inner.reduce_scatter(recv_S, send_N))

    def broadcast(self, tensor: Tensor, src: int) -> Work:
        return self._begin(lambda: self._inner.broadcast(tensor, src))

    def swap(self, message: bytes) -> list[bytes]:
        return self._thread.wait(lambda: self._inner.swap(message))

    def open_mailbox(self) -> Mailbox:
        return SeverableMailbox(self._thread, self._thread.wait(self._inner.open_mailbox))

    def _begin(self, operation: Callable[[], Work]) -> Work:
        return SeverableWork(self._thread, self._thread.run(operation))
