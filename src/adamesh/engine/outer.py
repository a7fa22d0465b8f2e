"""Anchors, and the pseudo-gradients that move them: DiLoCo's outer optimizer, cut over each island as all state is.

A *lane* is the part of a fragment that lies in one shard, packed behind each other on the wire's grain, and its way to
the same lane on the other islands and back. Several steps may pass between its launch and its landing.
"""

import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adamesh.comm.base import Communicator
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.coded import Track
from adamesh.engine.meter import Meter
from adamesh.engine.owner import Shard
from adamesh.engine.passage import Departure, Passage
from adamesh.engine.wiring import Wiring
from adamesh.sync.base import Outer
from adamesh.sync.fragments import fragment_run

__all__ = ["Anchor", "Lane", "OuterOptimizer", "Stretch"]


@dataclass(frozen=True)
class Stretch:
    """Neighbouring elements of a shard, and where they begin in a lane."""

    start: int
    stop: int
    packed: int

    def of(self, shard_S: Tensor) -> Tensor:
        """Them in a tensor of the shard's."""
        return shard_S[self.start : self.stop]

    def among(self, packed: Tensor) -> Tensor:
        """Them in a tensor of the lane's."""
        return packed[self.packed : self.packed + self.stop - self.start]


@dataclass
class Lane:
    """One fragment's part of one shard."""

    owner: "weakref.ref[Anchor]"
    """Whose it is; weakly, because what holds connections must go with its optimizer."""
    fragment: int
    stretches: Sequence[Stretch]
    numel: int
    passage: Passage
    is_whole: bool = False
    """It is the shard as it is, and its way counts from the start of the bucket."""
    sent: Tensor | None = None
    """This island's pseudo-gradient, while it is on its way."""
    mean: Tensor | None = None
    """What has come of it, once all is here."""
    committed: bool = False
    """What the codec has held back is up to date already."""

    @property
    def anchor(self) -> "Anchor":
        """Whose it is."""
        anchor = self.owner()
        assert anchor is not None, "the optimizer is gone"
        return anchor


@dataclass
class Anchor:
    """What islands agreed on last, of one shard, and the outer rule's momentum."""

    shard: Shard
    value_S: Tensor
    buffer_S: Tensor | None
    lanes: list[Lane] = field(default_factory=list)

    @property
    def state_bytes(self) -> int:
        """Anchor and momentum, and what codecs hold back."""
        tensors = [self.value_S] if self.buffer_S is None else [self.value_S, self.buffer_S]
        tensors += [tensor for lane in self.lanes for tensor, _ in lane.passage.residuals.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def buffer_bytes(self) -> int:
        """What is on its way."""
        sent = sum(lane.sent.numel() * lane.sent.element_size() for lane in self.lanes if lane.sent is not None)
        return sent + sum(lane.passage.buffer_bytes for lane in self.lanes)


class OuterOptimizer:
    """Anchors and lanes of one optimizer on one rank.

    Args:
        outer: the schedule's.
        wiring: makes the lanes' ways.
        meter: counts bytes and waiting.
    """

    def __init__(self, outer: Outer, wiring: Wiring, meter: Meter) -> None:
        self.outer = outer
        self.anchors: dict[int, Anchor] = {}
        """By bucket."""
        self.left: dict[int, int] = {}
        """Fragments on their way, and the steps after which they left."""
        self._wiring = wiring
        self._meter = meter
        self._failure: Exception | None = None

    @property
    def state_bytes(self) -> int:
        """Anchors, momentum, and what codecs hold back."""
        return sum(anchor.state_bytes for anchor in self.anchors.values())

    @property
    def buffer_bytes(self) -> int:
        """What is on its way."""
        return sum(anchor.buffer_bytes for anchor in self.anchors.values())

    @property
    def _comm(self) -> Communicator:
        return self._wiring.mesh.replicate

    def adopt(self, shard: Shard) -> None:
        """A bucket woke up: what it holds is its anchor."""
        value_S = shard.master_S.clone()
        buffer_S = torch.zeros_like(value_S) if self.outer.rule.momentum else None
        anchor = self.anchors[shard.bucket.place.index] = Anchor(shard, value_S, buffer_S)
        for fragment in range(self.outer.fragments):
            lane = self._lane(anchor, fragment)
            if lane is not None:
                anchor.lanes.append(lane)

    def refresh(self, slot: LiveSlot) -> None:
        """A parameter was changed from outside before its first step, on all workers alike: the anchor goes along.

        Later, what was written is what this island has learnt.
        """
        anchor = next((a for a in self.anchors.values() if slot in a.shard.bucket.slots), None)
        for piece in anchor.shard.pieces if anchor is not None else ():
            if piece.slot is slot:
                assert anchor is not None
                place = piece.place
                anchor.value_S[place.offset : place.offset + place.stop - place.start].copy_(piece.master)

    def launch(self, fragments: Sequence[int], step: int) -> None:
        """Send this island's pseudo-gradients of some fragments. Collective between islands."""
        for lane in self.lanes(fragments):
            shard = lane.anchor.shard
            lane.sent = self._comm.allocate(lane.numel, shard.master_S.dtype, shard.master_S.device)
            lane.mean, lane.committed = None, False
            for stretch in lane.stretches:
                torch.sub(stretch.of(lane.anchor.value_S), stretch.of(shard.master_S), out=stretch.among(lane.sent))
            self._meter.bytes_up += lane.passage.launch(lane.sent, Departure(step, 1.0, ()))
        self.left |= dict.fromkeys(fragments, step)

    def forward(self, fragments: Sequence[int]) -> None:
        """Sums of these fragments have had the time to arrive: send them on. Collective between islands."""
        for lane in self._under_way(fragments):
            self._proceed(lane)

    def finish(self, fragments: Sequence[int]) -> tuple[float, float]:
        """Lead fragments to the end of their way. Collective between islands.

        Returns:
            Sums of squares of this rank's parameters' distance from the mean over islands, and of the mean, both as
            they were when the fragments left.

        Raises:
            Exception: what went wrong here, now or on the way; after all that others wait for has been sent.
        """
        under_way = self._under_way(fragments)
        while under_way:
            under_way = [lane for lane in under_way if self._proceed(lane)]
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        apart = length = 0.0
        for lane in self._arrived(fragments):
            assert lane.mean is not None
            if lane.sent is not None:  # else it was loaded, and had been measured before
                apart += _squares(lane.sent - lane.mean)
                anchors = [stretch.of(lane.anchor.value_S) - stretch.among(lane.mean) for stretch in lane.stretches]
                length += sum(map(_squares, anchors))
        return apart, length

    @property
    def under_way(self) -> bool:
        """Something has yet to arrive."""
        return bool(self._under_way(list(self.left)))

    def settle(self) -> None:
        """Before a save: let everything arrive, and keep what codecs have held back of it. Collective between islands.

        Nothing else changes, and what went wrong is said when the fragments land.
        """
        under_way = self._under_way(list(self.left))
        while under_way:
            under_way = [lane for lane in under_way if self._proceed(lane)]
        for lane in self._arrived(list(self.left)):
            assert lane.mean is not None
            if lane.sent is not None and not lane.committed and math.isfinite(_squares(lane.mean)):
                lane.passage.commit()
                lane.committed = True

    def apply(self, fragments: Sequence[int]) -> dict[int, set[int]]:
        """Move anchors and masters by the means; returns the parameters that this concerns, by bucket."""
        for lane in self._arrived(fragments):
            assert lane.mean is not None
            anchor, kept = lane.anchor, self.outer.blend
            for stretch in lane.stretches:
                value, master = stretch.of(anchor.value_S), stretch.of(anchor.shard.master_S)
                buffer = None if anchor.buffer_S is None else stretch.of(anchor.buffer_S)
                self.outer.rule.step(value, buffer, stretch.among(lane.mean))
                if kept:
                    master.sub_(value).mul_(kept).add_(value)  # in this order, what is alike keeps its bits
                else:
                    master.copy_(value)
            if lane.sent is not None and not lane.committed:
                lane.passage.commit()
        self.drop(fragments)
        touched = {index: self._touched(anchor.shard.bucket, fragments) for index, anchor in self.anchors.items()}
        return {index: params for index, params in touched.items() if params}

    def _touched(self, bucket: LiveBucket, fragments: Sequence[int]) -> set[int]:
        """The parameters of a bucket, whoever owns them, that have elements in some fragments."""
        count, grain = self.outer.fragments, self._wiring.wire.grain
        found = set()
        for slot in bucket.slots:
            runs = (fragment_run(slot.place.param, slot.value.numel(), f, count, grain) for f in fragments)
            if any(start < stop for start, stop in runs):
                found.add(slot.place.param)
        return found

    def drop(self, fragments: Iterable[int]) -> None:
        """These fragments have landed, or are given up."""
        for lane in self.lanes(fragments):
            lane.sent = lane.mean = None
        for fragment in fragments:
            self.left.pop(fragment, None)

    def lanes(self, fragments: Iterable[int]) -> list[Lane]:
        """All lanes of some fragments, in the order in which they leave."""
        wanted = set(fragments)
        return [lane for _, anchor in sorted(self.anchors.items()) for lane in anchor.lanes if lane.fragment in wanted]

    def _under_way(self, fragments: Sequence[int]) -> list[Lane]:
        """Lanes that have left and not come to their end."""
        return [lane for lane in self.lanes(fragments) if lane.sent is not None and lane.mean is None]

    def _arrived(self, fragments: Sequence[int]) -> list[Lane]:
        """All but those of buckets that woke up since the fragment left."""
        return [lane for lane in self.lanes(fragments) if lane.mean is not None]

    def _proceed(self, lane: Lane) -> bool:
        """Wait for a leg and start the next one; returns whether there is one."""
        passage = lane.passage
        assert passage.work is not None
        self._meter.wait(passage.work)
        try:
            passage.take_in(1.0 / self._comm.size, ())
        except Exception as error:  # the others wait for what this rank has yet to send
            self._failure = self._failure or error
        num_bytes = passage.go_on()
        self._meter.bytes_up += num_bytes or 0
        if num_bytes is None:
            lane.mean = passage.total
        return num_bytes is not None

    def _lane(self, anchor: Anchor, fragment: int) -> Lane | None:
        me, shard, count, comm = weakref.ref(anchor), anchor.shard, self.outer.fragments, self._comm
        bucket, length = shard.bucket, anchor.value_S.numel()
        if count == 1:
            start, _ = bucket.place.shard_range(self._wiring.mesh.shard.rank, self._wiring.mesh.shard.size)
            track = self._wiring.track(bucket, comm, start, length)
            return Lane(me, fragment, [Stretch(0, length, 0)], length, self._wiring.between(bucket, track), True)
        stretches, packed = [], 0
        grain = self._wiring.wire.grain
        for piece in shard.pieces:
            param = piece.place.param
            run = fragment_run(param, piece.slot.value.numel(), fragment, count, grain)
            low, high = max(run[0], piece.place.start), min(run[1], piece.place.stop)
            if low < high:
                offset = piece.place.offset - piece.place.start
                stretches.append(Stretch(low + offset, high + offset, packed))
                packed += -(-(high - low) // grain) * grain
        if not stretches:
            return None
        unit = grain * comm.size
        numel = -(-packed // unit) * unit
        runs = [(s.packed, s.packed + s.stop - s.start) for s in stretches]
        # No other buffer has this number, so that no other has its random numbers.
        number = bucket.place.index * count + fragment
        track = Track(comm, number, 0, numel, bucket.dtype, anchor.value_S.device, runs, self._wiring.scratch)
        return Lane(me, fragment, stretches, numel, self._wiring.between(bucket, track))


def _squares(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64) ** 2)
