"""Fresh slices on their way DOWN: from each owner into every replica's parameters."""

from torch.autograd.graph import increment_version

from adamesh.codecs.base import Codec
from adamesh.codecs.coding import parts
from adamesh.comm.base import Work
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.delivery import CodedDelivery, Delivery, ExactDelivery
from adamesh.engine.meter import Meter
from adamesh.engine.owner import Shard
from adamesh.engine.wiring import Wiring

__all__ = ["Gather"]


class Gather:
    """Publishes updated shards, bucket by bucket, while the next bucket is being updated."""

    def __init__(self, wiring: Wiring, meter: Meter) -> None:
        comm, down = wiring.mesh.shard, wiring.wire.down
        self._exact = ExactDelivery(comm)
        self._coded: Delivery | None = None
        if down is not None:
            codec = parts(down).codec
            assert isinstance(codec, Codec), "plans refuse others"
            self._coded = CodedDelivery(wiring.ready(codec), comm, wiring.scratch)
        self._begun = wiring.begun(down)
        self._meter = meter

    def launch(self, shard: Shard, used: set[int], step: int) -> Work | None:
        """Start sending this rank's slice of a bucket to everybody in the island."""
        work, num_bytes = self._delivery(step).launch(shard, used, step)
        self._meter.bytes_down += num_bytes
        return work

    def land(self, bucket: LiveBucket, work: Work | None, used: set[int], step: int) -> None:
        """Wait for a bucket; the parameters in it now have, and say so by their version, their new values."""
        if work is not None:
            self._meter.wait(work)
        self._delivery(step).land(bucket, used)
        for slot in bucket.slots:
            if slot.place.param not in used:
                continue
            if slot.aliased:
                increment_version(slot.param)
            slot.publish()
            slot.steps += 1

    @property
    def buffer_bytes(self) -> int:
        """What is allocated."""
        return self._exact.buffer_bytes + (self._coded.buffer_bytes if self._coded is not None else 0)

    def _delivery(self, step: int) -> Delivery:
        return self._coded if self._coded is not None and self._begun(step) else self._exact
