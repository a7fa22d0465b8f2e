"""What codecs have held back: kept on every worker, saved once, whatever the number of workers.

Only the mean over workers enters the trajectory, so a checkpoint holds the mean, a tensor of the parameters' own shape:

    e_bar = mean over workers of e_up  +  mean over islands of e_across  +  e_back

all in units of a mean gradient. Whoever loads it, at any number of workers, starts each of them from ``e_bar`` in the
first residual that its plan keeps, and from zeros in the others.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from adamesh.comm.base import Communicator
from adamesh.comm.channel import ExactUp
from adamesh.comm.coder import clipped
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.engine import Engine
from adamesh.engine.passage import Passage

__all__ = ["KINDS", "RESIDUAL", "fold", "own_runs", "start_from"]

RESIDUAL = "residual"
"""The key of ``e_bar`` among a parameter's state tensors."""
KINDS = ("up", "across", "back")
"""A worker's own residuals: of what it sent UP, of its slice between islands, of the mean that it sent back."""


def fold(engine: Engine) -> dict[str, Tensor]:
    """``e_bar`` of the part of each parameter that this rank owns, by name. Collective."""
    means: dict[str, Tensor] = {}
    if not engine.plan.full_wire.keeps_residuals:
        return means
    engine.quiesce()
    for index in sorted(engine.transaction.shards):
        shard = engine.transaction.shards[index]
        mean_S = _folded(engine, shard.bucket)
        for piece in shard.pieces:
            place = piece.place
            means[piece.slot.name] = mean_S[place.offset : place.offset + place.stop - place.start]
    return means


def own_runs(engine: Engine) -> list[tuple[str, str, int, int, Tensor]]:
    """This rank's own residuals as (parameter, kind, start, stop, elements ``start:stop`` of it); no collective."""
    runs = []
    for bucket in engine.buckets:
        for stretch in _stretches(engine, bucket):
            for slot in bucket.slots:
                # Where the slot lies in the stretch, and where the stretch begins in the parameter.
                first, last = slot.place.start, slot.place.stop
                for low, high in clipped([(first, last)], stretch.at, stretch.at + stretch.held.numel()):
                    start = low + stretch.at - first
                    runs.append((slot.name, stretch.kind, start, start + high - low, stretch.held[low:high]))
    return runs


def start_from(
    engine: Engine, means: Mapping[str, Tensor], own: Mapping[tuple[str, str, int], Tensor], step: int
) -> None:
    """Overwrite this rank's residuals; no collective.

    Args:
        engine: whose.
        means: ``e_bar`` of whole flattened parameters, by name.
        own: what `own_runs` gave on this rank, by name, kind and start.
        step: the number of the next step; while a plan is still exact in it, there is nothing to be sent later.
    """
    coding = {slot.name: _first_kind(engine, bucket, step) for bucket in engine.buckets for slot in bucket.slots}
    for name, kind, start, stop, target in own_runs(engine):
        target.zero_()
        if (name, kind, start) in own:
            target.copy_(own[name, kind, start])
        elif name in means and kind == coding[name]:
            target.copy_(means[name][start:stop])


class Stretch(NamedTuple):
    """A run of what a passage has held back."""

    kind: str
    held: Tensor
    at: int
    """Where in the bucket it begins."""


def _passages(engine: Engine, bucket: LiveBucket) -> list[Passage]:
    """All that code something of a bucket: gradients, or pseudo-gradients."""
    outer = engine.transaction.agreement.outer
    anchor = outer.anchors.get(bucket.place.index) if outer is not None else None
    return bucket.passages + ([lane.passage for lane in anchor.lanes] if anchor is not None else [])


def _first_kind(engine: Engine, bucket: LiveBucket, step: int) -> str | None:
    """The first residual that is in use in a step."""
    for passage in _passages(engine, bucket):
        if passage.residuals and passage.codes(step):
            return next(kind for kind in KINDS if kind in passage.residuals)
    return None


def _stretches(engine: Engine, bucket: LiveBucket) -> Iterator[Stretch]:
    for passage in bucket.passages:
        for kind, (held, offset) in passage.residuals.items():
            yield Stretch(kind, held, offset)
    outer = engine.transaction.agreement.outer
    anchor = outer.anchors.get(bucket.place.index) if outer is not None else None
    if anchor is None:
        return
    shard_start, _ = bucket.place.shard_range(engine.mesh.shard.rank, engine.mesh.shard.size)
    for lane in anchor.lanes:
        for kind, (held, offset) in lane.passage.residuals.items():
            # A whole shard's lane counts from the start of the bucket, a fragment's from its own.
            first = offset - (shard_start if lane.is_whole else 0)
            for run in lane.stretches:
                length = run.stop - run.start
                for low, high in clipped([(run.packed, run.packed + length)], first, first + held.numel()):
                    yield Stretch(kind, held[low:high], shard_start + run.start + low + first - run.packed)


def _folded(engine: Engine, bucket: LiveBucket) -> Tensor:
    shard, replicate = engine.mesh.shard, engine.mesh.replicate
    start, stop = bucket.place.shard_range(shard.rank, shard.size)
    mean_S = torch.zeros(stop - start, dtype=bucket.state_dtype, device=bucket.param_N.device)
    for kind, held, at in _stretches(engine, bucket):
        if kind == "up":
            mean_S += _mean_of_chunks(shard, held)
        elif kind == "across":
            mean_S[at - start : at - start + held.numel()] += held
        else:
            # One worker alone holds this, and the mean over islands is to be it.
            mean_S[at - start : at - start + held.numel()].add_(held, alpha=replicate.size)
    gathered_S = replicate.allocate(mean_S.numel(), mean_S.dtype, mean_S.device)
    length = mean_S.numel() // replicate.size
    gathered_S[replicate.rank * length :][:length] = _mean_of_chunks(replicate, mean_S)
    replicate.all_gather(gathered_S).wait()
    return gathered_S


def _mean_of_chunks(comm: Communicator, tensor: Tensor) -> Tensor:
    """This rank's chunk of the mean of a tensor over the ranks, summed in their order."""
    up = ExactUp(comm)
    recv = comm.allocate(tensor.numel(), tensor.dtype, tensor.device)
    mean = torch.empty(tensor.numel() // comm.size, dtype=tensor.dtype, device=tensor.device)
    send = comm.allocate(tensor.numel(), tensor.dtype, tensor.device).copy_(tensor)
    up.launch(recv, send).wait()
    up.collect(recv, send, mean, 1.0 / comm.size)
    return mean
