"""The service: while this worker computes, a thread answers what others write to it."""

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from adamesh.comm.base import Mailbox, Work
from adamesh.engine.pushing.letters import Kind, LetterHead
from adamesh.errors import CommunicationTimeout

__all__ = ["Service"]

Answering = Callable[[Tensor, int, int], Tensor]
"""Takes a letter, who wrote it and which bucket it is about; gives the answer. What it gave for the same sender and
bucket before has been sent by then."""


class Service:
    """Serves from when it is made until every other worker has said that it writes nothing more.

    Args:
        mailbox: where letters come from and answers go.
        answering: what to answer. Called by the service's thread.
        longest: bytes of the longest letter.
        timeout_s: how long to wait for slower workers, and for the end; None: for as long as it takes.
    """

    def __init__(self, mailbox: Mailbox, answering: Answering, longest: int, timeout_s: float | None) -> None:
        self.failure: Exception | None = None
        """Why it serves no more."""
        self._answered_bytes = self._told_bytes = 0
        self._mailbox = mailbox
        self._answering = answering
        self._letter = torch.empty(longest, dtype=torch.uint8, device="cpu")
        self._timeout_s = timeout_s
        self._sending: dict[tuple[int, int], Work] = {}
        self._changed = threading.Condition()
        self._clocks = dict.fromkeys((rank for rank in range(mailbox.size) if rank != mailbox.rank), 0)
        """Of those that still write."""
        self._thread = threading.Thread(target=self._serve, name="adamesh-service", daemon=True)
        self._thread.start()

    def wait_for_slowest(self, clock: int, max_lead: int) -> None:
        """Block while another worker that still writes is more than ``max_lead`` steps behind ``clock``.

        Raises:
            CommunicationTimeout: it did not come nearer in time.
        """

        def near() -> bool:
            return self.failure is not None or all(clock - other <= max_lead for other in self._clocks.values())

        with self._changed:
            if not self._changed.wait_for(near, self._timeout_s):
                slowest = min(self._clocks, key=lambda rank: self._clocks[rank])
                raise CommunicationTimeout(
                    f"worker {slowest} is at step {self._clocks[slowest]} and this one at {clock}, more than "
                    f"max_lead={max_lead} ahead, for {self._timeout_s} s; see whether it hangs, or raise timeout_s"
                )

    def answered_since(self) -> int:
        """Bytes that went out in answers since this was last asked."""
        now = self._answered_bytes
        since, self._told_bytes = now - self._told_bytes, now
        return since

    def join(self) -> None:
        """Wait until everybody has said that it writes nothing more; all have, so it is a matter of milliseconds."""
        self._thread.join(self._timeout_s)
        if self._thread.is_alive():
            raise CommunicationTimeout(
                f"letters of workers {sorted(self._clocks)} did not arrive in {self._timeout_s} s"
            )

    def _serve(self) -> None:
        try:
            while self._clocks:
                sender = self._mailbox.receive_any(self._letter)
                head = LetterHead.read(self._letter)
                if head.kind != Kind.HALT:
                    if (sender, head.bucket) in self._sending:
                        self._sending.pop((sender, head.bucket)).wait()
                    answer = self._answering(self._letter, sender, head.bucket)
                    self._sending[sender, head.bucket] = self._mailbox.answer(answer, sender, head.bucket)
                    self._answered_bytes += answer.numel()
                with self._changed:
                    if head.kind == Kind.HALT:
                        del self._clocks[sender]
                    else:
                        self._clocks[sender] = max(self._clocks[sender], head.clock)
                    self._changed.notify_all()
        # Whatever it is, the worker's own thread raises it; this one has nobody to raise it to.
        except Exception as error:
            with self._changed:
                self.failure = error
                self._changed.notify_all()
