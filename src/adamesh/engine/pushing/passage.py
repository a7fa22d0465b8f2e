"""The worker's side of one bucket: gradients to its owners, and what they answer into the parameters."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.base import Codec, Stream
from adamesh.comm.base import Mailbox, Work, chunk
from adamesh.comm.channel import state_dtype
from adamesh.comm.coder import Coder, Run, Scratch, clipped, padding_of, stream_key
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.meter import Meter
from adamesh.engine.passage import Departure, Passage
from adamesh.engine.pushing.letters import (
    ANSWER_HEAD,
    Answer,
    Form,
    Kind,
    LetterFormat,
    LetterHead,
    Verdict,
)

__all__ = ["Answered", "PushPassage", "formats"]

AskHere = Callable[[Tensor, Tensor], Answer]
"""Gives a letter to this rank's own owner, who writes the answer into the second tensor."""


def formats(bucket: LiveBucket, num_hypers: int, codec: Codec | None, size: int) -> LetterFormat:
    """The format of letters about any chunk of a bucket cut over ``size`` ranks."""
    numel = bucket.place.numel // size
    body_bytes = {Form.EXACT: numel * bucket.dtype.itemsize}
    if bucket.low_precision:
        body_bytes[Form.WIDE] = numel * torch.float32.itemsize
    if codec is not None:
        body_bytes = {Form.CODED: codec.payload_bytes(numel)}
    return LetterFormat(num_hypers, len(bucket.slots), body_bytes)


@dataclass(frozen=True)
class Answered:
    """What became of this rank's gradient of one chunk."""

    answer: Answer
    numel: int


@dataclass
class Flight:
    """One push of all chunks of a bucket: letters and answers, by owner."""

    letters: list[Tensor]
    answers: list[Tensor]
    coders: list[Coder]
    sending: dict[int, Work]
    coming: dict[int, Work]


class PushPassage(Passage):
    """One bucket's way to its owners and back.

    Args:
        bucket: awake.
        codec: what makes bytes of gradients, None: nothing.
        feedback: keep what it drops.
        mailbox: leads to the other owners.
        ask_here: leads to this rank's own.
        letter_format: of letters about the bucket's chunks.
        outstanding: pushes whose answers may be taken later.
        scratch: of the worker's own thread.
        meter: counts bytes and waiting.
    """

    def __init__(
        self,
        bucket: LiveBucket,
        codec: Codec | None,
        feedback: bool,
        mailbox: Mailbox,
        ask_here: AskHere,
        letter_format: LetterFormat,
        outstanding: int,
        scratch: Scratch,
        meter: Meter,
    ) -> None:
        self.work = None
        self.squares = 0.0
        self.numbers: Sequence[float] = ()
        """The hyper-parameters of the next push."""
        self.versions = [0] * mailbox.size
        """Of the slices that the parameters have, by owner."""
        self._bucket = bucket
        self._codec = codec
        self._mailbox = mailbox
        self._ask_here = ask_here
        self._meter = meter
        self._format = letter_format
        device, dtype = bucket.param_N.device, state_dtype(bucket.dtype)
        self._residual_N = torch.zeros(bucket.place.numel, dtype=dtype, device=device) if feedback else None
        self._idle_flights = [self._flight(scratch) for _ in range(outstanding + 1)]
        self._under_way: deque[Flight] = deque()
        self._answered: list[Answered] = []
        self._news = False

    # -- what the reducer and checkpoints ask of any passage -----------------------------------------------------

    def codes(self, step: int) -> bool:
        return self._codec is not None

    def launch(self, send_N: Tensor, departure: Departure) -> int:
        used = [slot.seen is not None for slot in self._bucket.slots]
        kind = Kind.PUSH if any(used) else Kind.PULL
        form = Form.CODED if self._codec is not None else Form.WIDE if self._bucket.wide else Form.EXACT
        flight = self._idle_flights.pop()
        length = self._format.length(kind, form)
        rank, size = self._mailbox.rank, self._mailbox.size
        for distance in range(1, size + 1):  # this rank itself is the last one
            owner = (rank + distance) % size
            letter = flight.letters[owner]
            index = self._bucket.place.index
            LetterHead(kind, form, index, departure.step, self.versions[owner]).write(letter)
            self._format.write_details(letter, self.numbers, used)
            if kind == Kind.PUSH:
                self._write(flight, owner, form, send_N, departure)
            if owner == rank:
                # At once: nobody is quicker to have than oneself.
                self._take(flight, owner, self._ask_here(letter, flight.answers[owner]))
            else:
                flight.coming[owner] = self._mailbox.await_answer(flight.answers[owner], owner, index)
                flight.sending[owner] = self._mailbox.post(letter[:length], owner)
        self._under_way.append(flight)
        return length * (size - 1)

    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        """The oldest push's answers: wait for them, and bring them into the bucket."""
        flight = self._under_way.popleft()
        for owner, work in flight.coming.items():
            self._meter.wait(work)
            flight.sending[owner].wait()  # it has arrived: it was answered
            self._take(flight, owner, Answer.read(flight.answers[owner]))
        flight.coming.clear()
        flight.sending.clear()
        self._idle_flights.append(flight)

    def go_on(self) -> int | None:
        return None

    def commit(self) -> None:
        """Each owner's answer has committed its part already."""
        return None

    @property
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        return {} if self._residual_N is None else {"up": (self._residual_N, 0)}

    @property
    def buffer_bytes(self) -> int:
        flights = [*self._idle_flights, *self._under_way]
        return sum(tensor.numel() for flight in flights for tensor in (*flight.letters, *flight.answers))

    # -- what the pushing engine asks ------------------------------------------------------------------------------

    @property
    def num_under_way(self) -> int:
        """Pushes whose answers have not been taken."""
        return len(self._under_way)

    def has_news(self) -> bool:
        """Whether slices have been written into the bucket since this was last asked."""
        news, self._news = self._news, False
        return news

    def answered(self) -> list[Answered]:
        """What became of the pushes whose answers were taken since this was last asked."""
        answered, self._answered = self._answered, []
        return answered

    # -- inside ----------------------------------------------------------------------------------------------------

    def _flight(self, scratch: Scratch) -> Flight:
        bucket, size = self._bucket, self._mailbox.size
        numel = bucket.place.numel // size
        pinned = bucket.param_N.is_cuda
        letters = [
            torch.zeros(self._format.longest, dtype=torch.uint8, device="cpu", pin_memory=pinned) for _ in range(size)
        ]
        num_bytes = ANSWER_HEAD + numel * bucket.dtype.itemsize
        answers = [torch.zeros(num_bytes, dtype=torch.uint8, device="cpu", pin_memory=pinned) for _ in range(size)]
        coders = []
        if self._codec is not None:
            runs = [(slot.start, slot.stop) for slot in bucket.place.slots]
            for owner, letter in enumerate(letters):
                # On a GPU it is coded there, and its bytes are copied.
                payload_B = self._format.body(letter, Form.CODED).to(bucket.param_N.device)
                residual_S = None if self._residual_N is None else chunk(self._residual_N, owner, size)
                padding = padding_of(self._codec, runs, owner * numel, (owner + 1) * numel, bucket.param_N.device)
                coders.append(Coder(self._codec, payload_B.view(1, -1), residual_S, padding, scratch))
        return Flight(letters, answers, coders, {}, {})

    def _write(self, flight: Flight, owner: int, form: Form, send_N: Tensor, departure: Departure) -> None:
        """The gradient of an owner's chunk into its letter."""
        grad_S = chunk(send_N, owner, self._mailbox.size)
        body = self._format.body(flight.letters[owner], form)
        if form != Form.CODED:
            body.view(grad_S.dtype).copy_(grad_S)
            return
        start = owner * grad_S.numel()
        idle = clipped(departure.idle, start, start + grad_S.numel())
        key = stream_key(self._bucket.place.index, departure.step, "up", self._mailbox.rank)
        coder = flight.coders[owner]
        coder.encode(grad_S, departure.factor, idle, Stream(key, start))
        if coder.payload_RB.device != body.device:
            body.copy_(coder.payload_RB.view(-1))

    def _take(self, flight: Flight, owner: int, answer: Answer) -> None:
        param_S = chunk(self._bucket.param_N, owner, self._mailbox.size)
        param_S.copy_(flight.answers[owner][ANSWER_HEAD:].view(param_S.dtype))
        self.versions[owner] = answer.version
        self._news = True
        if answer.verdict == Verdict.ACCEPTED and flight.coders:
            flight.coders[owner].commit()
        if answer.verdict != Verdict.NOTHING:
            self._answered.append(Answered(answer, param_S.numel()))
