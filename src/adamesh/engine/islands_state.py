"""State of islands that differ, in one checkpoint: each island's own, what they share once, and means for other meshes.

    exp_avg@1, value@1     island 1's own moments, and its parameters
    anchor, ...            what all islands hold alike, written by the first one

Whoever loads it with as many islands goes on as if never stopped; with another number, each island starts from the
mean of parameters (the model's file) and of moments, and from the anchor as it is.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adamesh.engine.engine import Engine
from adamesh.engine.outer import Lane
from adamesh.engine.owner import OwnedPiece
from adamesh.engine.runs import HeldRun, PieceSource, StateSource
from adamesh.errors import CheckpointError
from adamesh.rules.base import Moment

__all__ = [
    "OUTSTANDING",
    "OWN_VALUE",
    "SHARED",
    "fetch_islands",
    "own_runs_to_save",
    "renamed",
    "seen_from",
    "settle",
    "shared_tensors",
    "sync_record",
    "take_shared",
    "take_values",
]

OWN_VALUE = "value"
"""An island's own parameters, where the model's file has the mean."""
_ANCHOR, _BUFFER, _PENDING = "anchor", "outer_momentum", "pending"
OUTSTANDING = "outstanding."
"""With a number: mean gradients whose update is still to be made, the oldest first."""
SHARED = (_ANCHOR, _BUFFER, _PENDING)
"""The outer optimizer's, the same on all islands; the last is the mean of fragments that are on their way."""

Read = Callable[[StateSource, str, str, int, int], Tensor]


# -- saving --------------------------------------------------------------------------------------------------


def settle(engine: Engine) -> None:
    """Let fragments that are on their way arrive, and tell each other how many updates islands have made. Collective.

    It changes nothing of what training comes to.
    """
    agreement = engine.transaction.agreement
    outer = agreement.outer
    if engine.transaction.outstanding.parcels:
        engine.quiesce()
        engine.transaction.outstanding.settle()
    if not agreement.state_apart and not (outer is not None and outer.left):
        return
    if outer is not None and outer.left:
        engine.quiesce()
        outer.settle()
    head = {
        "counts": {slot.name: slot.steps for slot in engine.slots},
        "scalars": {slot.name: _numbers(slot.scalars) for slot in engine.slots if slot.scalars},
    }
    messages = engine.mesh.world.exchange(json.dumps(head).encode(), "settle")
    agreement.heads = [json.loads(message) for message in messages[:: engine.mesh.shard.size]]
    agreement.heads_step = engine.transaction.step_number


def sync_record(engine: Engine) -> dict[str, Any]:
    """What a saved state says of islands beside tensors, as JSON can hold it; empty where they step together.

    Raises:
        CheckpointError: a fragment is on its way.
    """
    agreement = engine.transaction.agreement
    parcels = engine.transaction.outstanding.parcels
    if any(parcel.landing is not None for parcel in parcels):
        raise CheckpointError(
            "gradients are on their way, as they are with Stale: call optimizer.flush() on every worker before taking "
            "their state (adamesh.save does)"
        )
    if parcels:
        names = {slot.place.param: slot.name for slot in engine.slots}
        return {"outstanding": [{"step": p.step, "used": sorted(names[param] for param in p.used)} for p in parcels]}
    if engine.plan.sync.at(0).gradients:
        return {}
    outer = agreement.outer
    if outer is not None and outer.under_way:
        raise CheckpointError(
            f"fragments {sorted(outer.left)} are on their way between islands: call optimizer.flush() on every worker "
            "before taking their state (adamesh.save does)"
        )
    record: dict[str, Any] = {
        "islands": engine.mesh.replicate.size,
        "apart": [agreement.params_apart, agreement.state_apart],
        "known": {str(order): counts for order, counts in agreement.averaging.known.items()},
    }
    if outer is not None:
        record |= {"fragments": outer.outer.fragments, "left": {str(f): step for f, step in outer.left.items()}}
    if agreement.state_apart and agreement.heads_step == engine.transaction.step_number:
        record["heads"] = agreement.heads
    return record


def own_runs_to_save(engine: Engine, runs: Sequence[HeldRun]) -> list[HeldRun]:
    """An island's runs under keys of its own; what islands share is the first one's to write."""
    island = engine.mesh.replicate.rank
    pieces = {piece.slot.name: piece for s in engine.transaction.shards.values() for piece in s.pieces}
    kept = []
    for run in runs:
        tensors = {f"{key}@{island}": tensor for key, tensor in run.tensors.items() if key not in SHARED}
        if engine.transaction.agreement.params_apart:
            value = pieces[run.name].slot.value[run.start : run.stop]
            tensors[f"{OWN_VALUE}@{island}"] = value
        if island == 0:
            tensors |= {key: tensor for key, tensor in run.tensors.items() if key in SHARED}
        kept.append(HeldRun(run.name, run.start, run.stop, tensors))
    return kept


def shared_tensors(engine: Engine, bucket: int, piece: OwnedPiece) -> dict[str, Tensor]:
    """The outer optimizer's part of a piece."""
    outer, run = engine.transaction.agreement.outer, _run(piece)
    if outer is None:
        slices = [parcel.reduced.get(bucket) for parcel in engine.transaction.outstanding.parcels]
        return {f"{OUTSTANDING}{i}": reduced_S[run] for i, reduced_S in enumerate(slices) if reduced_S is not None}
    anchor = outer.anchors[bucket]
    tensors = {_ANCHOR: anchor.value_S[run]}
    if anchor.buffer_S is not None:
        tensors[_BUFFER] = anchor.buffer_S[run]
    arrived = [lane for lane in anchor.lanes if lane.mean is not None]
    if outer.left:
        pending_S = torch.zeros_like(anchor.value_S)
        for lane in arrived:
            for stretch in lane.stretches:
                stretch.of(pending_S).copy_(stretch.among(_mean(lane)))
        tensors[_PENDING] = pending_S[run]
    return tensors


def renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A `sync_record` with other names of parameters."""

    def keyed(by_name: Mapping[str, Any]) -> dict[str, Any]:
        return {names[name]: value for name, value in by_name.items()}

    changed = dict(record)
    if "known" in record:
        changed["known"] = {order: keyed(counts) for order, counts in record["known"].items()}
    if "heads" in record:
        changed["heads"] = [{key: keyed(value) for key, value in head.items()} for head in record["heads"]]
    if "outstanding" in record:
        changed["outstanding"] = [
            {**parcel, "used": [names[name] for name in parcel["used"]]} for parcel in record["outstanding"]
        ]
    return changed


# -- loading -------------------------------------------------------------------------------------------------


def seen_from(engine: Engine, source: StateSource) -> StateSource:
    """A saved state as this island sees it: its own part where there are as many islands, else the mean."""
    heads = source.sync.get("heads")
    if not heads:
        return source
    alone = not engine.plan.sync.at(0).gradients
    island = engine.mesh.replicate.rank if alone and len(heads) == engine.mesh.replicate.size else None
    moments = {
        slot.name: engine.rule.moments(engine.hyper(bucket.place.group))
        for bucket in engine.buckets
        for slot in bucket.slots
    }
    return _Seen(source, heads, island, moments)


class _Seen:
    """A source of state that islands have saved each for itself.

    Args:
        source: with all islands' keys.
        heads: what each island says of itself.
        island: whose part to show; None: the mean.
        moments: what state tensors are, by parameter.
    """

    def __init__(
        self,
        source: StateSource,
        heads: Sequence[Mapping[str, Any]],
        island: int | None,
        moments: Mapping[str, Mapping[str, Moment]],
    ) -> None:
        self._source = source
        self._heads = heads
        self._island = island
        self._moments = moments

    @property
    def sync(self) -> Mapping[str, Any]:
        record = {key: value for key, value in self._source.sync.items() if key != "heads"}
        return record if self._island is not None else {**record, "apart": [False, False], "known": {}}

    def steps(self, name: str) -> int | None:
        counts = self._counts(name)
        return max(counts) if self._island is None else counts[self._island]

    def scalars(self, name: str) -> Mapping[str, float]:
        counts = self._counts(name)
        speaker = counts.index(max(counts)) if self._island is None else self._island
        found: Mapping[str, float] = self._heads[speaker]["scalars"].get(name, {})
        return found

    def keys(self, name: str) -> Sequence[str]:
        island = 0 if self._island is None else self._island
        found = [key.rpartition("@") for key in self._source.keys(name)]
        bare = [last if not at else first for first, at, last in found if not at or last == str(island)]
        return [key for key in bare if key != OWN_VALUE or self._island is not None]

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        if f"{key}@0" not in self._source.keys(name):
            return self._source.read(name, key, start, stop)
        if self._island is not None:
            return self._source.read(name, f"{key}@{self._island}", start, stop)
        counts = self._counts(name)
        moment = self._moments[name].get(key)
        total, weight = torch.zeros((), device="cpu"), 0
        for island, count in enumerate(counts):
            if moment is None or count:
                tensor = self._source.read(name, f"{key}@{island}", start, stop)
                total = total + tensor / _correction(moment, count)
                weight += 1
        return total / max(weight, 1) * _correction(moment, max(counts))

    def _counts(self, name: str) -> list[int]:
        return [head["counts"][name] for head in self._heads]


def _correction(moment: Moment | None, count: int) -> float:
    return 1.0 if moment is None or moment.decay is None else 1.0 - moment.decay**count


def fetch_islands(engine: Engine, source: StateSource, read: Read) -> Iterator[HeldRun]:
    """What this rank needs of it beside the rule's state."""
    for bucket in engine.buckets:
        for slot in bucket.slots:
            numel = slot.value.numel()
            if OWN_VALUE in source.keys(slot.name):
                yield HeldRun(slot.name, 0, numel, {OWN_VALUE: read(source, slot.name, OWN_VALUE, 0, numel)})
        names = {slot.place.param: slot.name for slot in bucket.slots}
        for piece in engine.layout.pieces(bucket.place.index, engine.mesh.shard.rank):
            name = names[piece.param]
            keys = [key for key in source.keys(name) if key in SHARED or key.startswith(OUTSTANDING)]
            tensors = {key: read(source, name, key, piece.start, piece.stop) for key in keys}
            if tensors:
                yield HeldRun(name, piece.start, piece.stop, tensors)


def take_values(engine: Engine, held: PieceSource) -> None:
    """Overwrite parameters by this island's own, where they were saved."""
    for bucket in engine.buckets:
        for slot in bucket.slots:
            if OWN_VALUE in held.keys(slot.name):
                slot.value.copy_(held.read(slot.name, OWN_VALUE, 0, slot.value.numel()))
                if slot.aliased:
                    increment_version(slot.param)
                slot.publish()


def take_shared(engine: Engine, held: PieceSource) -> None:
    """Overwrite what is to be known of islands: flags, anchors, momentum, and fragments that were on their way."""
    agreement, sync = engine.transaction.agreement, held.sync
    alone = bool(sync) and not engine.plan.sync.at(0).gradients
    # Of a state that says nothing of islands it is not known what they hold.
    unknown = not sync and not engine.plan.sync.at(0).gradients and engine.mesh.replicate.size > 1
    agreement.params_apart, agreement.state_apart = sync["apart"] if alone else (unknown, unknown)
    agreement.averaging.known = {int(o): dict(counts) for o, counts in sync["known"].items()} if alone else {}
    _take_outstanding(engine, held)
    outer = agreement.outer
    if outer is None:
        return
    outer.drop(list(outer.left))
    fits = sync.get("fragments") == outer.outer.fragments
    left = {int(fragment): step for fragment, step in sync.get("left", {}).items()} if fits else {}
    for anchor in outer.anchors.values():
        anchor.value_S.copy_(anchor.shard.master_S)
        if anchor.buffer_S is not None:
            anchor.buffer_S.zero_()
        pending_S = torch.zeros_like(anchor.value_S)
        for piece in anchor.shard.pieces:
            targets = {_ANCHOR: anchor.value_S, _BUFFER: anchor.buffer_S, _PENDING: pending_S}
            for key, target_S in targets.items():
                if target_S is not None and key in held.keys(piece.slot.name):
                    target_S[_run(piece)].copy_(held.read(piece.slot.name, key, piece.place.start, piece.place.stop))
        for lane in anchor.lanes:
            if lane.fragment in left:
                lane.mean = torch.zeros(lane.numel, dtype=pending_S.dtype, device=pending_S.device)
                for stretch in lane.stretches:
                    stretch.among(lane.mean).copy_(stretch.of(pending_S))
    outer.left = left


def _take_outstanding(engine: Engine, held: PieceSource) -> None:
    outstanding, parcels = engine.transaction.outstanding, held.sync.get("outstanding", [])
    numbers = {slot.name: slot.place.param for slot in engine.slots}
    found = []
    for index, parcel in enumerate(parcels if len(parcels) <= outstanding.delay else []):
        slices, key = {}, f"{OUTSTANDING}{index}"
        for number, shard in engine.transaction.shards.items():
            slices[number] = torch.zeros_like(shard.master_S)
            for piece in shard.pieces:
                if key in held.keys(piece.slot.name):
                    place = piece.place
                    slices[number][_run(piece)].copy_(held.read(piece.slot.name, key, place.start, place.stop))
        found.append((parcel["step"], {numbers[name] for name in parcel["used"]}, slices))
    outstanding.restore(found)


def _run(piece: OwnedPiece) -> slice:
    return slice(piece.place.offset, piece.place.offset + piece.place.stop - piece.place.start)


def _mean(lane: Lane) -> Tensor:
    assert lane.mean is not None
    return lane.mean


def _numbers(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    return {key: value.item() for key, value in scalars.items()}
