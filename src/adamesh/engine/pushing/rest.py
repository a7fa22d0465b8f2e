"""At rest: replicas are made alike, and so are the update counts of what several ranks own parts of."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch.autograd.graph import increment_version

from adamesh.comm.base import Mesh
from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.meter import Meter
from adamesh.engine.owner import Shard
from adamesh.rules.base import Rule

__all__ = ["equalise", "publish"]


def publish(slot: LiveSlot) -> None:
    """The bucket has a new value of a parameter."""
    if slot.aliased:
        increment_version(slot.param)
    slot.publish()


def equalise(mesh: Mesh, buckets: Sequence[LiveBucket], shards: Mapping[int, Shard], rule: Rule, meter: Meter) -> None:
    """Give every rank the masters of all, and every part of a parameter the same update count. Collective.

    Of a parameter that several ranks own parts of, the part with the most updates speaks for all: a checkpoint has one
    count a parameter, and what goes on shall be what it would load.
    """
    for index, owned in sorted(shards.items()):
        bucket = buckets[index]
        owned.view_S.copy_(owned.master_S)
        if mesh.shard.size > 1:
            meter.wait(mesh.shard.all_gather(bucket.param_N))
        for slot in bucket.slots:
            publish(slot)
    names = tuple(rule.scalars)
    slots = [slot for bucket in buckets for slot in bucket.slots]
    pieces = [piece for owned in shards.values() for piece in (*owned.pieces, *owned.witnesses)]
    counts = {id(piece.slot): float(piece.step) for piece in pieces}
    counts |= {id(slot): float(slot.steps) for slot in slots if not slot.value.numel()}  # nobody owns a part
    mine = [
        [counts.get(id(slot), -1.0), *(float(slot.scalars[name]) if slot.scalars else 0.0 for name in names)]
        for slot in slots
    ]
    answers = meter.exchange(mesh.world, np.array(mine, dtype=np.float64).tobytes(), "update counts")
    found = np.stack([np.frombuffer(a, dtype=np.float64).reshape(len(slots), -1) for a in answers])
    for number, slot in enumerate(slots):
        best = found[int(found[:, number, 0].argmax()), number]
        slot.steps = max(0, int(best[0]))
        for name, value in zip(names, best[1:], strict=True):
            if slot.scalars:
                slot.scalars[name].fill_(float(value))
    for piece in pieces:
        piece.step.fill_(float(piece.slot.steps))
