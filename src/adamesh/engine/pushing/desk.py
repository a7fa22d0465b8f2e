"""The desk: who answers letters when, on one rank; opened to push, closed to rest."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adamesh.comm.base import Mailbox, Mesh
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.meter import Meter
from adamesh.engine.pushing.chunks import Owner, pushed_codec
from adamesh.engine.pushing.letters import ANSWER_HEAD, Answer, Kind, LetterFormat, LetterHead, numbers_of
from adamesh.engine.pushing.passage import formats
from adamesh.engine.pushing.service import Service
from adamesh.errors import CommunicationError
from adamesh.plan import Plan
from adamesh.rules.base import Hyper

__all__ = ["Desk"]

_HALT_LINE = 1 << 20
"""Beyond the buckets' lines."""


class Desk:
    """This rank's mailbox, and the service behind it while it is open.

    Args:
        mesh: one island. Its world opens a mailbox: collective.
        plan: how gradients are coded, and how long to wait.
        buckets: the optimizer's, also those to come.
        owner: answers.
        hyper_names: which hyper-parameters letters carry.
        hyper: gives a parameter group, as it last was.
        meter: counts waiting.
    """

    def __init__(
        self,
        mesh: Mesh,
        plan: Plan,
        buckets: Sequence[LiveBucket],
        owner: Owner,
        hyper_names: Sequence[str],
        hyper: Callable[[int], Hyper],
        meter: Meter,
    ) -> None:
        self.mailbox: Mailbox = mesh.world.open_mailbox()
        self._buckets = buckets
        self._owner = owner
        self._hyper_names = hyper_names
        self._hyper = hyper
        self._meter = meter
        self._codec = pushed_codec(plan.wire)
        self._timeout_s = plan.timeout_s
        self._service: Service | None = None
        self._answers: dict[tuple[int, int], Tensor] = {}
        """What the service writes to other ranks, by rank and bucket."""

    @property
    def is_open(self) -> bool:
        """Whether other ranks may be writing to this one, and be answered."""
        return self._service is not None

    def open(self) -> None:
        """Answer other ranks from now on, until `halt`."""
        if self._service is None and self.mailbox.size > 1:
            longest = max((self.format(bucket).longest for bucket in self._buckets), default=LetterHead.NUM_BYTES)
            self._service = Service(self.mailbox, self._answer, longest, self._timeout_s)

    def wait_for_slowest(self, clock: int, max_lead: int) -> None:
        """Block while this rank is too far ahead."""
        if self._service is not None:
            self._service.wait_for_slowest(clock, max_lead)

    def halt(self, clock: int) -> list[int]:
        """Tell everybody that this rank writes no more, and wait until all have said so. Collective.

        Returns:
            How many steps each rank has made.
        """
        rank, size = self.mailbox.rank, self.mailbox.size
        clocks = torch.full((size, 1), clock, dtype=torch.int64, device="cpu")
        if self._service is not None:
            others = [other for other in range(size) if other != rank]
            letter = torch.zeros(LetterHead.NUM_BYTES, dtype=torch.uint8, device="cpu")
            LetterHead(Kind.HALT, clock=clock).write(letter)
            mine = clocks[rank].view(torch.uint8)
            coming = [self.mailbox.await_answer(clocks[o].view(torch.uint8), o, _HALT_LINE) for o in others]
            for work in [self.mailbox.post(letter, other) for other in others]:
                self._meter.wait(work)
            # Only now, when the services have it: whoever has heard from all may go on, and push again.
            for work in [*(self.mailbox.answer(mine, other, _HALT_LINE) for other in others), *coming]:
                self._meter.wait(work)
            self._service.join()
            self.refuse_if_failed()
            self._service = None
        return [int(each) for each in clocks]

    def refuse_if_failed(self) -> None:
        """Raise what ended the service before its time."""
        failure = self._service.failure if self._service is not None else None
        if isinstance(failure, CommunicationError):
            raise failure
        if failure is not None:
            raise CommunicationError(f"this worker's service ended by an error: {failure}") from failure

    def ask_here(self, bucket: LiveBucket, letter: Tensor, out: Tensor) -> Answer:
        """Give a letter to this rank's own owner."""
        template = self._hyper(bucket.place.group)
        return self._owner.answer(bucket, letter, self.format(bucket), template, self.mailbox.rank, out)

    def numbers(self, bucket: LiveBucket) -> list[float]:
        """The hyper-parameters that a letter about a bucket carries."""
        return numbers_of(self._hyper_names, self._hyper(bucket.place.group))

    def format(self, bucket: LiveBucket) -> LetterFormat:
        """The format of letters about a bucket."""
        return formats(bucket, len(self.numbers(bucket)), self._codec, self.mailbox.size)

    def answered_since(self) -> int:
        """Bytes that went out in answers since this was last asked."""
        return 0 if self._service is None else self._service.answered_since()

    @property
    def buffer_bytes(self) -> int:
        """What is allocated."""
        return sum(tensor.numel() for tensor in self._answers.values())

    def _answer(self, letter: Tensor, sender: int, index: int) -> Tensor:
        """The service's: what to answer to a letter."""
        bucket = self._buckets[index]
        out = self._answers.get((sender, index))
        if out is None:
            num_bytes = ANSWER_HEAD + bucket.place.numel // self.mailbox.size * bucket.dtype.itemsize
            out = torch.zeros(num_bytes, dtype=torch.uint8, device="cpu", pin_memory=bucket.param_N.is_cuda)
            self._answers[sender, index] = out
        self._owner.answer(bucket, letter, self.format(bucket), self._hyper(bucket.place.group), sender, out)
        return out
