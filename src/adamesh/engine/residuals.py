"""What codecs have held back: kept on every worker, saved once, whatever the number of workers.

Only the mean over workers enters the trajectory, so a checkpoint holds the mean, a tensor of the parameters' own shape:

    e_bar = mean over workers of e_up  +  mean over islands of e_across  +  e_back

all in units of a mean gradient. Whoever loads it, at any number of workers, starts each of them from ``e_bar`` in the
first residual that its plan keeps, and from zeros in the others.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adamesh.comm.base import Communicator
from adamesh.comm.channel import ExactUp
from adamesh.comm.coder import clipped
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.engine import Engine

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
        for kind, (residual, offset) in _residuals(bucket).items():
            for slot in bucket.slots:
                first, last = slot.place.start, slot.place.stop
                # Where the slot lies in the residual, and where the residual begins in the parameter.
                for low, high in clipped([(first, last)], offset, offset + residual.numel()):
                    start = low + offset - first
                    runs.append((slot.name, kind, start, start + high - low, residual[low:high]))
    return runs


def start_from(engine: Engine, means: Mapping[str, Tensor], own: Mapping[tuple[str, str], Tensor], step: int) -> None:
    """Overwrite this rank's residuals; no collective.

    Args:
        engine: whose.
        means: ``e_bar`` of whole flattened parameters, by name.
        own: what `own_runs` gave on this rank, by name and kind.
        step: the number of the next step; while a plan is still exact in it, there is nothing to be sent later.
    """
    targets = {(name, kind): target for name, kind, _, _, target in own_runs(engine)}
    places = {(name, kind): (start, stop) for name, kind, start, stop, _ in own_runs(engine)}
    coding = {slot.name: _first_kind(bucket, step) for bucket in engine.buckets for slot in bucket.slots}
    for (name, kind), target in targets.items():
        target.zero_()
        if (name, kind) in own:
            target.copy_(own[name, kind])
        elif name in means and kind == coding[name]:
            start, stop = places[name, kind]
            target.copy_(means[name][start:stop])


def _first_kind(bucket: LiveBucket, step: int) -> str | None:
    """The first residual that is in use in a step."""
    for passage in bucket.passages:
        if passage.residuals and passage.codes(step):
            return next(kind for kind in KINDS if kind in passage.residuals)
    return None


def _residuals(bucket: LiveBucket) -> dict[str, tuple[Tensor, int]]:
    return {kind: found for passage in bucket.passages for kind, found in passage.residuals.items()}


def _folded(engine: Engine, bucket: LiveBucket) -> Tensor:
    shard, replicate = engine.mesh.shard, engine.mesh.replicate
    residuals = _residuals(bucket)
    start, stop = bucket.place.shard_range(shard.rank, shard.size)
    mean_S = torch.zeros(stop - start, dtype=bucket.state_dtype, device=bucket.param_N.device)
    if "up" in residuals:
        mean_S += _mean_of_chunks(shard, residuals["up"][0])
    if "across" in residuals:
        mean_S += residuals["across"][0]
    if "back" in residuals:
        # One worker alone holds this, and the mean over islands is to be it.
        back, offset = residuals["back"]
        mean_S[offset - start : offset - start + back.numel()].add_(back, alpha=replicate.size)
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
