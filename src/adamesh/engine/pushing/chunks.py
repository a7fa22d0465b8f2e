"""The owner's side: versioned chunks, updated push by push, each given out whole."""

import math
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adamesh.codecs.base import Codec
from adamesh.codecs.coding import parts
from adamesh.comm.base import Communicator
from adamesh.comm.channel import sum_in_rank_order
from adamesh.comm.coder import Scratch, padding_of
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.owner import Shard
from adamesh.engine.pushing.letters import (
    ANSWER_HEAD,
    Answer,
    Form,
    Kind,
    LetterFormat,
    LetterHead,
    Verdict,
    with_numbers,
)
from adamesh.layout import Layout
from adamesh.plan import Plan
from adamesh.rules.base import Hyper, Rule
from adamesh.wire import Wire

__all__ = ["Chunk", "Owner", "pushed_codec"]


class Chunk:
    """This rank's slice of one bucket, and how many updates it has had since all replicas were alike.

    Args:
        shard: the slice, with a master of its own: what the model computes with changes only in ``step()``.
        codec: how gradients may be coded.
        keeps_reads: keep what each worker was sent last, for the delay compensation.
        num_ranks: workers.
        offset: where in the bucket it begins.
    """

    def __init__(self, shard: Shard, codec: Codec | None, *, keeps_reads: bool, num_ranks: int, offset: int) -> None:
        self.shard = shard
        self.version = 0
        self.reads = [shard.master_S.clone() for _ in range(num_ranks)] if keeps_reads else []
        self._codec = codec
        runs = [(slot.start, slot.stop) for slot in shard.bucket.place.slots]
        device = shard.master_S.device
        stop = offset + shard.master_S.numel()
        self._padding_S = padding_of(codec, runs, offset, stop, device) if codec is not None else None

    def gradient(self, body: Tensor, form: Form, scratch: Scratch) -> tuple[Tensor, float]:
        """A letter's gradient in the precision of sums, and its sum of squares."""
        master_S = self.shard.master_S
        grad_S = scratch.take(master_S.numel(), master_S.dtype, master_S.device)
        if form == Form.CODED:
            assert self._codec is not None and self._padding_S is not None
            self._codec.decode(body.to(master_S.device).view(1, -1), grad_S.view(1, -1))
            grad_S.index_fill_(0, self._padding_S, 0.0)
            return grad_S, float(sum_in_rank_order([grad_S], grad_S, 1.0))
        sent_S = body.view(torch.float32 if form == Form.WIDE else self.shard.bucket.dtype)
        return grad_S, float(sum_in_rank_order([sent_S.to(master_S.device)], grad_S, 1.0))

    def come_to_rest(self) -> None:
        """All replicas are alike."""
        self.version = 0
        for read_S in self.reads:
            read_S.copy_(self.shard.master_S)


def pushed_codec(wire: Wire) -> Codec | None:
    """What gradients are coded with on their way to owners."""
    codec = None if wire.up is None else parts(wire.up).codec
    assert codec is None or isinstance(codec, Codec), "plans refuse others"
    return codec


class Owner:
    """Answers letters, from whatever thread: one at a time.

    Args:
        layout: gives the layout, which grows with groups.
        shards: bucket index -> this rank's slice; those that are missing are made when they are needed.
        make_shard: makes one.
        rule: the update mathematics.
        plan: says when a push is accepted, and how gradients are coded.
        world: whose rank this is.
    """

    def __init__(
        self,
        layout: Callable[[], Layout],
        make_shard: Callable[[LiveBucket], Shard],
        rule: Rule,
        plan: Plan,
        world: Communicator,
    ) -> None:
        pushes = plan.sync.at(0).pushes
        assert pushes is not None
        self.chunks: dict[int, Chunk] = {}
        """By bucket index; buckets of frozen parameters have none."""
        self._layout = layout
        self._make_shard = make_shard
        self._rule = rule
        self._pushes = pushes
        self._codec = pushed_codec(plan.wire)
        self._rank = world.rank
        self._size = world.size
        self._lock = threading.Lock()
        self._scratch = Scratch()

    def open(self, bucket: LiveBucket) -> Chunk:
        """This rank's chunk of a bucket, made if it is not there."""
        with self._lock:
            return self._open(bucket)

    def answer(
        self, bucket: LiveBucket, letter: Tensor, letter_format: LetterFormat, template: Hyper, sender: int, out: Tensor
    ) -> Answer:
        """Take a letter, and write the answer with one version of the chunk, whole.

        Args:
            bucket: which the letter is about.
            letter: at least as long as the letter.
            letter_format: of letters about this chunk.
            template: this rank's hyper-parameters of the bucket's group, for their kinds; the values are the letter's.
            sender: the rank that wrote it.
            out: the answer's bytes.
        """
        head = LetterHead.read(letter)
        numbers, used = letter_format.read_details(letter)
        hyper = with_numbers(self._rule.hyper_names, template, numbers)
        params = {slot.place.param for slot, it_is in zip(bucket.slots, used, strict=True) if it_is}
        with self._lock, torch.no_grad():
            chunk = self._open(bucket)
            answer = self._judge(chunk, head, letter_format.body(letter, head.form), hyper, params, sender)
            slice_S = out[ANSWER_HEAD:].view(bucket.dtype)
            slice_S.copy_(chunk.shard.master_S)
            if chunk.reads:
                chunk.reads[sender].copy_(chunk.shard.master_S)
        answer.write(out)
        return answer

    @property
    def buffer_bytes(self) -> int:
        """What is allocated beside the state."""
        reads = [read for chunk in self.chunks.values() for read in chunk.reads]
        return self._scratch.num_bytes + sum(read.numel() * read.element_size() for read in reads)

    def _open(self, bucket: LiveBucket) -> Chunk:
        index = bucket.place.index
        if index not in self.chunks:
            start, _ = self._layout().buckets[index].shard_range(self._rank, self._size)
            keeps_reads = self._pushes.compensation > 0
            shard = self._make_shard(bucket)
            self.chunks[index] = Chunk(shard, self._codec, keeps_reads=keeps_reads, num_ranks=self._size, offset=start)
        return self.chunks[index]

    def _judge(
        self, chunk: Chunk, head: LetterHead, body: Tensor, hyper: Hyper, params: set[int], sender: int
    ) -> Answer:
        staleness = chunk.version - head.version
        shard = chunk.shard
        if head.kind == Kind.PULL or not any(_concerns(shard, param) for param in params):
            return Answer(chunk.version, staleness, 0.0, Verdict.NOTHING)
        grad_S, squares = chunk.gradient(body, head.form, self._scratch)
        if not math.isfinite(squares) and not bool(grad_S.isfinite().all()):
            return Answer(chunk.version, staleness, squares, Verdict.NON_FINITE)
        if staleness > self._pushes.staleness:
            return Answer(chunk.version, staleness, squares, Verdict.STALE)
        if chunk.reads:
            # Zheng et al. 2017, equation 10.
            moved_S = shard.master_S - chunk.reads[sender]
            grad_S.addcmul_(grad_S.square(), moved_S, value=self._pushes.compensation)
        shard.apply(self._rule, hyper, params, grad_S)
        chunk.version += 1
        return Answer(chunk.version, staleness, squares, Verdict.ACCEPTED)


def _concerns(shard: Shard, param: int) -> bool:
    owned: Sequence[int] = [piece.place.param for piece in (*shard.pieces, *shard.witnesses)]
    return param in owned
