"""A communicator that another thread can cut, for good: whoever waits in it is told, and so is whoever comes."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Mailbox, Work
from adamesh.errors import CommunicationError, PeerLost

__all__ = ["Severable", "Thread"]

T = TypeVar("T")
_CUT = PeerLost("cut")
_GRACE_S = 0.05


class Thread:
    """What all that belongs to one severable communicator hangs by.

    Args:
        waits: told whether the worker waits for others, whenever that changes.
    """

    def __init__(self, waits: Callable[[bool], None]) -> None:
        self.reason: str | None = None
        """Why it is cut, once it is."""
        self._waits = waits
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._servant: threading.Thread | None = None

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

    def wait(self, operation: Callable[[], None]) -> None:
        """Do something that may block, in a thread that can be left behind. By one thread at a time.

        Gloo loses a send for good, and with it whoever waits for it, if its own thread meets the end of the connection
        while it writes what the receiver has just asked for.
        """
        if self._servant is None:
            self._servant = threading.Thread(target=_serve, args=(self._orders, self._results), daemon=True)
            self._servant.start()
        self._waits(True)
        try:
            self.run(lambda: self._await(operation))
        finally:
            self._waits(False)

    def cut(self, reason: str) -> None:
        """Let nobody wait any longer."""
        self.reason = reason
        self._results.put(_CUT)
        self._orders.put(None)

    def _await(self, operation: Callable[[], None]) -> None:
        self._orders.put(operation)
        result = self._results.get()
        if result is _CUT:
            # As a rule the connections' ends end the operation too; then nobody touches its buffers any more.
            with contextlib.suppress(queue.Empty):
                result = self._results.get(timeout=_GRACE_S)
            if result is _CUT:
                raise PeerLost(f"{self.reason}")
        if result is not None:
            raise result


def _serve(
    orders: "queue.SimpleQueue[Callable[[], None] | None]", results: "queue.SimpleQueue[Exception | None]"
) -> None:
    """The life of the thread that waits."""
    while (operation := orders.get()) is not None:
        try:
            operation()
        except Exception as error:
            results.put(error)
        else:
            results.put(None)


class SeverableWork(Work):
    """A collective under way."""

    def __init__(self, thread: Thread, work: Work) -> None:
        self._thread = thread
        self._work = work

    def wait(self) -> None:
        self._thread.wait(self._work.wait)


class Letter(Work):
    """A letter or an answer under way; several threads may wait for theirs at once."""

    def __init__(self, thread: Thread, work: Work) -> None:
        self._thread = thread
        self._work = work

    def wait(self) -> None:
        self._thread.run(self._work.wait)


class SeverableMailbox(Mailbox):
    """A mailbox that is cut with its communicator."""

    def __init__(self, thread: Thread, mailbox: Mailbox) -> None:
        self.rank = mailbox.rank
        self.size = mailbox.size
        self._thread = thread
        self._mailbox = mailbox

    def post(self, letter: Tensor, to: int) -> Work:
        return Letter(self._thread, self._thread.run(lambda: self._mailbox.post(letter, to)))

    def receive_any(self, buffer: Tensor) -> int:
        # Whoever empties an inbox is a servant: that it waits says nothing about the worker.
        return self._thread.run(lambda: self._mailbox.receive_any(buffer))

    def answer(self, letter: Tensor, to: int, line: int) -> Work:
        return Letter(self._thread, self._thread.run(lambda: self._mailbox.answer(letter, to, line)))

    def await_answer(self, buffer: Tensor, of: int, line: int) -> Work:
        return Letter(self._thread, self._thread.run(lambda: self._mailbox.await_answer(buffer, of, line)))


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

    def reaches(self, device: torch.device) -> bool:
        return self._inner.reaches(device)

    def sever(self, reason: str) -> None:
        """Let all that is under way, and all that comes, raise `PeerLost`. From any thread; again, it does nothing."""
        if self._thread.reason is None:
            self._thread.cut(reason)
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
        swapped: list[list[bytes]] = []
        self._thread.wait(lambda: swapped.append(self._inner.swap(message)))
        return swapped[0]

    def open_mailbox(self) -> Mailbox:
        return SeverableMailbox(self._thread, self._thread.run(self._inner.open_mailbox))

    def _begin(self, operation: Callable[[], Work]) -> Work:
        return SeverableWork(self._thread, self._thread.run(operation))
