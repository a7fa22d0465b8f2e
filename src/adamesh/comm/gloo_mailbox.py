"""The mailbox over Gloo: the inbox is a receive from any source, answers are tagged transfers."""

import torch.distributed as dist
from torch import Tensor

from adamesh.comm.base import Mailbox, Work
from adamesh.comm.failure import translated, wait_for

__all__ = ["GlooMailbox"]

_INBOX = 0
"""The tag of letters; line ``n`` has tag ``n + 1``."""


class GlooMailbox(Mailbox):
    """Letters by Gloo's point-to-point transfers, from any thread.

    A transfer moves when its receive was posted, so a letter costs no memory on the way. A receive shorter than what
    arrives ends the *process* inside Gloo: buffers are as long as the longest letter.

    Args:
        group: a Gloo group that nobody else uses.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank = group.rank()
        self.size = group.size()
        self._group = group

    def post(self, letter: Tensor, to: int) -> Work:
        return self._send(letter, to, _INBOX, f"a letter from rank {self.rank} to rank {to}")

    def receive_any(self, buffer: Tensor) -> int:
        what = f"the inbox of rank {self.rank}"
        try:
            work = self._group.recv_anysource([buffer], _INBOX)
        except RuntimeError as error:
            raise translated(error, what) from error
        wait_for([work], what)
        return int(work._source_rank())

    def answer(self, letter: Tensor, to: int, line: int) -> Work:
        return self._send(letter, to, line + 1, f"an answer from rank {self.rank} to rank {to}")

    def await_answer(self, buffer: Tensor, of: int, line: int) -> Work:
        what = f"an answer from rank {of} to rank {self.rank}"
        try:
            return MailWork(self._group.recv([buffer], of, line + 1), what)
        except RuntimeError as error:
            raise translated(error, what) from error

    def _send(self, letter: Tensor, to: int, tag: int, what: str) -> Work:
        try:
            return MailWork(self._group.send([letter], to, tag), what)
        except RuntimeError as error:
            raise translated(error, what) from error


class MailWork(Work):
    """One transfer."""

    def __init__(self, work: dist.Work, what: str) -> None:
        self._work = work
        self._what = what

    def wait(self) -> None:
        wait_for([self._work], self._what)
