"""Wiring: which passages and deliveries a plan's wire means on a mesh."""

from collections.abc import Callable, Mapping

from adamesh.codecs.base import Codec
from adamesh.codecs.coding import Coding, parts
from adamesh.codecs.lowrank import LowRank
from adamesh.comm.base import Communicator, Mesh
from adamesh.comm.coder import Scratch
from adamesh.comm.local import LocalCommunicator
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.coded import CodedPassage, RoundTrip, Track
from adamesh.engine.lowrank import LowRankPassage, Place
from adamesh.engine.momentum import MomentumTrip
from adamesh.engine.passage import ExactPassage, Passage
from adamesh.engine.warmup import WarmupPassage
from adamesh.wire import Wire

__all__ = ["Wiring", "alone"]


class Wiring:
    """Makes the passages of an optimizer's buckets.

    An axis of one worker has no exact passage, because nothing travels. A codec does its work there all the same, so
    that a run on one worker shows what one on many does.

    Args:
        mesh: who talks to whom.
        wire: the plan's.
        compiled: forms of its codecs to take instead of them.
        frozen: whether second moments are, the same on every rank; it changes between steps only.
        gradients_cross: whether gradients ever travel between islands.
    """

    def __init__(
        self,
        mesh: Mesh,
        wire: Wire,
        compiled: Mapping[Codec, Codec],
        frozen: Callable[[], bool],
        *,
        gradients_cross: bool = True,
    ) -> None:
        self._frozen = frozen
        self.mesh = mesh
        self.wire = wire
        self._compiled = compiled
        self.scratch = Scratch()
        self._gradients_cross = gradients_cross

    @property
    def goes_within(self) -> bool:
        """Whether gradients travel inside islands."""
        return self.mesh.shard.size > 1 or self.wire.up is not None

    @property
    def goes_across(self) -> bool:
        """Whether gradients travel between islands, where the schedule says so."""
        return self._gradients_cross and (self.mesh.replicate.size > 1 or self.wire.across is not None)

    @property
    def first_comm(self) -> Communicator:
        """The axis that gradients leave along."""
        return self.mesh.shard if self.mesh.shard.size > 1 else self.mesh.replicate

    def ready(self, codec: Codec) -> Codec:
        """The form of a codec that does the work."""
        return self._compiled.get(codec, codec)

    def begun(self, coding: Coding | None) -> Callable[[int], bool]:
        """Whether a direction is coded in a step."""
        if coding is None:
            return lambda step: False
        found = parts(coding)
        return (lambda step: self._frozen()) if found.frozen else (lambda step: step >= found.exact_steps)

    def within(self, bucket: LiveBucket) -> Passage | None:
        """A bucket's way to the owners of its slices."""
        if not self.goes_within:
            return None
        comm, up = self.mesh.shard, self.wire.up
        if up is None:
            return ExactPassage(comm, everybody_needs_all=False)
        codec, feedback, *_ = parts(up)
        track = self.track(bucket, comm, 0, bucket.place.numel)
        coded: Passage
        if isinstance(codec, LowRank):
            coded = LowRankPassage(codec, _places(bucket), track, everybody_needs_all=False)
        else:
            coded = CodedPassage(self.ready(codec), feedback, track)
        if not parts(up).has_phases:
            return coded
        return WarmupPassage(lambda: ExactPassage(comm, everybody_needs_all=False), coded, self.begun(up))

    def across(self, bucket: LiveBucket) -> Passage | None:
        """An owner's slice's way to its counterparts on other islands, and back."""
        if not self.goes_across:
            return None
        start, stop = bucket.place.shard_range(self.mesh.shard.rank, self.mesh.shard.size)
        return self.between(bucket, self.track(bucket, self.mesh.replicate, start, stop - start))

    def between(self, bucket: LiveBucket, track: Track) -> Passage:
        """A way between islands, and back, for a buffer of owned elements of a bucket."""
        comm, across = self.mesh.replicate, self.wire.across
        if across is None:
            return ExactPassage(comm, everybody_needs_all=True)
        codec, feedback, _, decay, *_ = parts(across)
        coded: Passage
        if isinstance(codec, LowRank):
            assert self.mesh.shard.size == 1 and track.numel == bucket.place.numel, "parts are no matrices"
            coded = LowRankPassage(codec, _places(bucket), track, everybody_needs_all=True)
        else:
            trip = RoundTrip(self.ready(codec), feedback, track, decay)
            coded = MomentumTrip(trip, bucket, track) if parts(across).momentum else trip
        if not parts(across).has_phases:
            return coded
        return WarmupPassage(lambda: ExactPassage(comm, everybody_needs_all=True), coded, self.begun(across))

    def track(self, bucket: LiveBucket, comm: Communicator, offset: int, numel: int) -> Track:
        """``numel`` elements of a bucket from ``offset`` on, along an axis."""
        runs = [(slot.start, slot.stop) for slot in bucket.place.slots]
        device = bucket.param_N.device
        return Track(comm, bucket.place.index, offset, numel, bucket.dtype, device, runs, self.scratch)


def alone() -> Wiring:
    """No ways at all: gradients are taken out of backward, and somebody else sends them."""
    comm = LocalCommunicator()
    return Wiring(Mesh(comm, comm, comm), Wire(), {}, lambda: False)


def _places(bucket: LiveBucket) -> list[Place]:
    return [Place(slot.place.start, slot.place.stop, _real_shape(slot)) for slot in bucket.slots]


def _real_shape(slot: LiveSlot) -> tuple[int, ...]:
    return (*slot.shape, 2) if slot.param.is_complex() else tuple(slot.shape)
