"""What islands would agree on now: the mean of their parameters, to be looked at and put back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adamesh.engine.bucket import LiveBucket, LiveSlot
from adamesh.engine.delivery import ExactDelivery
from adamesh.engine.engine import Engine
from adamesh.engine.passage import Departure, ExactPassage

__all__ = ["agreed"]


@contextmanager
def agreed(engine: Engine) -> Iterator[None]:
    """Inside, parameters are the mean over islands of their masters. Collective, and free where islands are alike.

    Everything else of the optimizer is left alone: no step may be made inside.
    """
    agreement = engine.transaction.agreement
    if not agreement.params_apart:
        yield
        return
    changed = [slot for bucket in engine.buckets for slot in bucket.slots if slot.changed]
    kept: list[Tensor] = []
    try:
        with torch.no_grad():
            engine.quiesce()
            _take_over(engine, changed)
            kept = [bucket.param_N.clone() for bucket in engine.buckets]
            agreement.wake_alike(engine.wake)
            _take_means(engine)
            for bucket in engine.buckets:
                _show(bucket)
        yield
    finally:
        with torch.no_grad():
            for bucket, own_N in zip(engine.buckets, kept, strict=False):
                bucket.param_N.copy_(own_N)
                _show(bucket)
        for slot in changed:
            slot.param_version = -1  # what was written from outside before is still to be told to the others


def _take_over(engine: Engine, changed: Sequence[LiveSlot]) -> None:
    """What was written to parameters from outside counts, as it would in the next step."""
    for slot in changed:
        if slot.moved or not slot.aliased:
            slot.adopt()
        for shard in engine.transaction.shards.values():
            shard.refresh(slot)


def _take_means(engine: Engine) -> None:
    """Overwrite every bucket by the mean over islands, the same bits everywhere; masters of their own stay."""
    mesh, down = engine.mesh, ExactDelivery(engine.mesh.shard)
    for index in sorted(engine.transaction.shards):
        shard = engine.transaction.shards[index]
        passage = ExactPassage(mesh.replicate, everybody_needs_all=True)
        passage.launch(shard.master_S, Departure(engine.transaction.step_number, 1.0, ()))
        for leg in range(2):
            assert passage.work is not None
            passage.work.wait()
            passage.take_in(1.0 / mesh.replicate.size, ())
            if leg == 0:
                passage.go_on()
        shard.view_S.copy_(passage.total)
        work, _ = down.gather(shard.bucket)
        if work is not None:
            work.wait()


def _show(bucket: LiveBucket) -> None:
    for slot in bucket.slots:
        if slot.aliased:
            increment_version(slot.param)
        slot.publish()
