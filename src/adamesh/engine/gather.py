"""Fresh slices on their way DOWN: from each owner into every replica's parameters."""

from torch.autograd.graph import increment_version

from adamesh.comm.base import Communicator, Work
from adamesh.comm.channel import ExactDown
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.meter import Meter
from adamesh.engine.owner import Shard

__all__ = ["Gather"]


class Gather:
    """Publishes updated shards, bucket by bucket, while the next bucket is being updated."""

    def __init__(self, comm: Communicator, meter: Meter) -> None:
        self._down = ExactDown(comm) if comm.size > 1 else None
        self._meter = meter

    def launch(self, shard: Shard) -> Work | None:
        """Start sending this rank's slice of a bucket to everybody in the island."""
        if shard.separate:
            shard.view_S.copy_(shard.master_S)
        if self._down is None:
            return None
        self._meter.bytes_down += self._down.bytes_sent(shard.bucket.param_N)
        return self._down.launch(shard.bucket.param_N)

    def land(self, bucket: LiveBucket, work: Work | None, used: set[int]) -> None:
        """Wait for a bucket; the parameters in it now have, and say so by their version, their new values."""
        if work is not None:
            self._meter.wait(work)
        for slot in bucket.slots:
            if slot.place.param not in used:
                continue
            if slot.aliased:
                increment_version(slot.param)
            slot.publish()
            slot.steps += 1
