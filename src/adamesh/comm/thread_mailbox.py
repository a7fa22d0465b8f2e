"""The mailbox between threads of one process, which loses letters and ranks as it is told to."""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from torch import Tensor

from adamesh.comm.base import Completed, Mailbox, Work
from adamesh.comm.faults import WorkerKilled
from adamesh.errors import CommunicationTimeout, PeerLost

__all__ = ["PostOffice", "ThreadMailbox"]


class PostOffice:
    """What the mailboxes of one group share.

    Args:
        members: the ranks of the world, by rank of the group.
        running: the ranks of the world that are still there.
        changed: guards everything here, and is told when a rank ends.
        timeout_s: real seconds.
    """

    def __init__(
        self, members: Sequence[int], running: AbstractSet[int], changed: threading.Condition, timeout_s: float
    ) -> None:
        self.inboxes: list[deque[tuple[int, Tensor]]] = [deque() for _ in members]
        self.lines: defaultdict[tuple[int, int, int], deque[Tensor]] = defaultdict(deque)
        """(to, of, line) -> answers that nobody has taken yet."""
        self.changed = changed
        self._members = members
        self._running = running
        self._timeout_s = timeout_s

    def runs(self, rank: int) -> bool:
        """Whether a rank of the group is still there; holding ``changed``."""
        return self._members[rank] in self._running

    def wait_for(self, done: Callable[[], object], what: str) -> None:
        """Block until ``done()``, holding ``changed``."""
        if not self.changed.wait_for(done, timeout=self._timeout_s):
            raise CommunicationTimeout(f"{what}: nothing came within {self._timeout_s} s; see whether a worker hangs")


class ThreadMailbox(Mailbox):
    """One rank's end.

    Args:
        office: the group's.
        rank: of the group.
        suffer: counts an operation of this rank and lets its faults happen; returns whether the letter will arrive.
    """

    def __init__(self, office: PostOffice, rank: int, suffer: Callable[[], bool]) -> None:
        self.rank = rank
        self.size = len(office.inboxes)
        self._office = office
        self._suffer = suffer

    def post(self, letter: Tensor, to: int) -> Work:
        # Only what a rank posts of its own accord is counted: when it answers is a matter of how threads are scheduled.
        arrives = self._suffer()
        with self._office.changed:
            self._refuse_lost(to)
            if arrives:
                self._office.inboxes[to].append((self.rank, letter.clone()))
                self._office.changed.notify_all()
        return Completed()

    def receive_any(self, buffer: Tensor) -> int:
        office, inbox = self._office, self._office.inboxes[self.rank]
        with office.changed:
            office.wait_for(lambda: inbox or not office.runs(self.rank), f"the inbox of rank {self.rank}")
            if not office.runs(self.rank):
                raise WorkerKilled(f"rank {self.rank} has ended and takes part in nothing any more")
            sender, letter = inbox.popleft()
        buffer[: letter.numel()].copy_(letter)
        return sender

    def answer(self, letter: Tensor, to: int, line: int) -> Work:
        with self._office.changed:
            self._refuse_lost(to)
            self._office.lines[to, self.rank, line].append(letter.clone())
            self._office.changed.notify_all()
        return Completed()

    def await_answer(self, buffer: Tensor, of: int, line: int) -> Work:
        return AwaitedAnswer(self._office, buffer, (self.rank, of, line))

    def _refuse_lost(self, to: int) -> None:
        if not self._office.runs(to):
            raise PeerLost(f"a letter from rank {self.rank} to rank {to}: rank {to} has ended; see its own error")


class AwaitedAnswer(Work):
    """An answer on its way, or not sent yet."""

    def __init__(self, office: PostOffice, buffer: Tensor, line: tuple[int, int, int]) -> None:
        self._office = office
        self._buffer = buffer
        self._line = line

    def wait(self) -> None:
        office, (to, of, _) = self._office, self._line
        answers = office.lines[self._line]
        what = f"an answer from rank {of} to rank {to}"
        with office.changed:
            office.wait_for(lambda: answers or not office.runs(of), what)
            if not answers:
                raise PeerLost(f"{what}: rank {of} ended before it answered; see its own error")
            letter = answers.popleft()
        assert letter.shape == self._buffer.shape, (letter.shape, self._buffer.shape)
        self._buffer.copy_(letter)
