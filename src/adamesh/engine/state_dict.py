"""Optimizer state out of an engine and back: by parameter name and element range, whatever the world size."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, chunk
from adamesh.engine.bucket import flat_real, state_dtype
from adamesh.engine.engine import Engine
from adamesh.engine.islands_state import (
    OUTSTANDING,
    OWN_VALUE,
    SHARED,
    fetch_islands,
    seen_from,
    shared_tensors,
    take_shared,
    take_values,
)
from adamesh.engine.owner import OwnedPiece
from adamesh.engine.residuals import KINDS, RESIDUAL, own_runs, start_from
from adamesh.engine.runs import HeldRun, PieceSource, StateSource
from adamesh.engine.table import MASTER, ROW_KEYS, LiveTable
from adamesh.errors import CheckpointError, LayoutError, StateLost

__all__ = [
    "MASTER",
    "OWN_RESIDUALS",
    "export_mirrors",
    "export_pieces",
    "export_residuals",
    "fetch",
    "gather_full",
    "restore",
]

OWN_RESIDUALS = {kind: f"{RESIDUAL}_{kind}" for kind in KINDS}
"""The keys of a worker's own residuals, which are state of this worker and fit no other number of workers."""
_BESIDE = {MASTER, RESIDUAL, OWN_VALUE, *SHARED, *OWN_RESIDUALS.values()}
"""Keys of what is no state of the rule's."""


def export_pieces(engine: Engine) -> list[HeldRun]:
    """This rank's state, as views; no collective.

    Raises:
        StateLost: it is torn.
        CheckpointError: rows of an exact table are behind.
    """
    _refuse_torn(engine)
    for table in engine.tables:
        if table.missed:
            raise CheckpointError(
                f"rows of {table.slot.name!r} are up to {len(table.missed)} steps behind, as they may be with "
                "sparse='exact': call optimizer.flush() on every worker before taking their state (adamesh.save does)"
            )
    runs = []
    for index in sorted(engine.transaction.shards):
        shard = engine.transaction.shards[index]
        for piece in shard.pieces:
            tensors = dict(piece.state)
            if shard.separate:
                tensors[MASTER] = piece.master
            tensors |= shared_tensors(engine, index, piece)
            runs.append(_run_of(piece, tensors))
    return runs + [_held(table) for table in engine.tables if table.owned is not None and table.stop > table.start]


def export_mirrors(engine: Engine) -> list[HeldRun]:
    """This rank's copies of others' state, masters included, as views; no collective."""
    _refuse_torn(engine)
    own = set(map(id, engine.transaction.shards.values()))
    return [
        _run_of(piece, {**piece.state, MASTER: piece.master})
        for s in engine.held
        if id(s) not in own
        for piece in s.pieces
    ]


def export_residuals(engine: Engine) -> list[HeldRun]:
    """What this rank's codecs have held back, as views; no collective."""
    return [HeldRun(name, start, stop, {OWN_RESIDUALS[kind]: run}) for name, kind, start, stop, run in own_runs(engine)]


def fetch(engine: Engine, source: StateSource) -> PieceSource:
    """Read and check what this rank needs of a source: with that, :func:`restore` cannot fail. No collective.

    Raises:
        CheckpointError: elements or state tensors are missing, or there are some that this optimizer does not keep.
    """
    source = seen_from(engine, source)
    counts = {slot.name: source.steps(slot.name) or 0 for slot in engine.slots}
    numbers = {name: source.scalars(name) for name, steps in counts.items() if steps}
    for name, found in numbers.items():
        _check_keys(name, set(found), set(engine.rule.scalars), needed=True)
    runs = []
    for bucket in engine.buckets:
        shard = engine.transaction.shards.get(bucket.place.index)
        keys = tuple(shard.state_S) if shard else engine.state_names(bucket)
        mirrored = {piece for owner in engine.owners[1:] for piece in engine.layout.pieces(bucket.place.index, owner)}
        slots = {slot.place.param: slot for slot in bucket.slots}
        for slot in slots.values():
            if counts[slot.name]:
                _check_keys(slot.name, _rules_own(source.keys(slot.name)), set(keys))
        for piece in (*engine.layout.pieces(bucket.place.index, engine.mesh.shard.rank), *mirrored):
            name = slots[piece.param].name
            wanted = keys if counts[name] else ()
            # An island may have taken over what others made of a parameter that it has never updated.
            keeps = engine.keeps_master(bucket) or piece in mirrored
            wanted += (MASTER,) if keeps and MASTER in source.keys(name) else ()
            tensors = {key: _read(source, name, key, piece.start, piece.stop) for key in wanted}
            runs.append(HeldRun(name, piece.start, piece.stop, tensors))
    if engine.plan.full_wire.keeps_residuals:
        runs.extend(_fetch_residuals(engine, source, counts))
    runs.extend(_fetch_rows(table, engine, source) for table in engine.tables if counts[table.slot.name])
    runs.extend(fetch_islands(engine, source, _read))
    return PieceSource(runs, counts, numbers, source.sync)


def _run_of(piece: OwnedPiece, tensors: Mapping[str, Tensor]) -> HeldRun:
    return HeldRun(piece.slot.name, piece.place.start, piece.place.stop, tensors)


def _held(table: LiveTable) -> HeldRun:
    """This rank's rows of a table, as views."""
    width, tensors = table.place.width, table.tensors()
    return HeldRun(table.slot.name, table.start * width, table.stop * width, tensors, width)


def _fetch_rows(table: LiveTable, engine: Engine, source: StateSource) -> HeldRun:
    """What a source has of this rank's rows of a table; rows of which it has no counts were in every update."""
    name, width, there = table.slot.name, table.place.width, set(source.keys(table.slot.name))
    kept = set(table.rule.state_names(engine.hyper(table.group)))
    _check_keys(name, there - {*_BESIDE, *ROW_KEYS}, kept)
    keys = kept | ({MASTER} & there if table.dtype != table.values.dtype else set())
    tensors = {key: _read(source, name, key, table.start * width, table.stop * width) for key in sorted(keys)}
    for key in ROW_KEYS:
        if key in there:
            tensors[key] = _read(source, name, key, table.start, table.stop)
    return HeldRun(name, table.start * width, table.stop * width, tensors, width)


def _fetch_residuals(engine: Engine, source: StateSource, counts: Mapping[str, int]) -> list[HeldRun]:
    """The mean residuals that a source holds, whole, because every worker starts from them; or this rank's own."""
    runs = []
    for slot in engine.slots:
        keys, numel = source.keys(slot.name) if counts[slot.name] else (), slot.value.numel()
        if RESIDUAL in keys:
            runs.append(HeldRun(slot.name, 0, numel, {RESIDUAL: _read(source, slot.name, RESIDUAL, 0, numel)}))
    for name, kind, start, stop, _ in own_runs(engine):
        key = OWN_RESIDUALS[kind]
        if counts[name] and key in source.keys(name):
            runs.append(HeldRun(name, start, stop, {key: _read(source, name, key, start, stop)}))
    return runs


def restore(engine: Engine, source: StateSource, step_number: int) -> None:
    """Overwrite this rank's state from a source; no collective.

    Everything is read and checked before anything is written, so an error leaves the state as it was. A
    parameter of which the source has no count has never been updated: its state becomes that of a new one.

    Raises:
        CheckpointError: what :func:`fetch` says.
    """
    if engine.pushing is not None:
        engine.pushing.refuse_while_serving()
    held = fetch(engine, source)
    for bucket in engine.buckets:
        stirred = any(held.steps(slot.name) or set(SHARED) & {*held.keys(slot.name)} for slot in bucket.slots)
        if not bucket.awake and stirred:
            engine.wake(bucket)
    with torch.no_grad():
        take_values(engine, held)
        for shard in engine.held:
            for piece in (*shard.pieces, *shard.witnesses):
                name, start, stop = piece.slot.name, piece.place.start, piece.place.stop
                for key, target in piece.state.items():
                    if held.steps(name):
                        target.copy_(held.read(name, key, start, stop))
                    else:
                        target.zero_()
                if shard.separate:
                    has_master = MASTER in held.keys(name)
                    value = held.read(name, MASTER, start, stop) if has_master else piece.slot.value[start:stop]
                    piece.master.copy_(value)
                piece.step.fill_(float(held.steps(name) or 0))
                for key, number in piece.scalars.items():
                    number.fill_(held.scalars(name)[key] if held.steps(name) else engine.rule.scalars[key])
        for table in engine.tables:
            steps = held.steps(table.slot.name) or 0
            if steps and table.owned is None:
                table.wake(engine.hyper(table.group))
            found = {key: held.read(table.slot.name, key, *table.span(key)) for key in held.keys(table.slot.name)}
            table.restore(found, steps)
        _restore_residuals(engine, held, step_number)
        take_shared(engine, held)
    for slot in engine.slots:
        slot.steps = held.steps(slot.name) or 0
        slot.param_version = slot.param._version
    engine.transaction.go_on_from(step_number)
    if engine.pushing is not None:
        engine.pushing.restart()


def _restore_residuals(engine: Engine, held: PieceSource, step_number: int) -> None:
    sizes = {slot.name: slot.value.numel() for slot in engine.slots}
    known = [name for name in sizes if RESIDUAL in held.keys(name)]
    own = {
        (name, kind, start): held.read(name, OWN_RESIDUALS[kind], start, stop)
        for name, kind, start, stop, _ in own_runs(engine)
        if OWN_RESIDUALS[kind] in held.keys(name)
    }
    start_from(engine, {name: held.read(name, RESIDUAL, 0, sizes[name]) for name in known}, own, step_number)


def refresh_values(engine: Engine) -> None:
    """Take parameters as they are now into the buckets (they were loaded from outside)."""
    for slot in engine.slots:
        if slot.moved or not slot.aliased:
            slot.adopt()


def gather_full(engine: Engine) -> dict[str, dict[str, Tensor]]:
    """Whole state tensors by parameter name, in the parameters' shapes; empty but on world rank 0. Collective.

    Raises:
        StateLost: it is torn.
    """
    _refuse_torn(engine)
    engine.quiesce()
    comm, first = engine.mesh.shard, engine.mesh.world.rank == 0
    full: dict[str, dict[str, Tensor]] = {}
    for index in sorted(engine.transaction.shards):
        shard = engine.transaction.shards[index]
        tensors = dict(shard.state_S)
        if shard.separate:
            tensors[MASTER] = shard.master_S
        for key, tensor_S in tensors.items():
            buffer_N = comm.allocate(shard.bucket.place.numel, tensor_S.dtype, tensor_S.device)
            chunk(buffer_N, comm.rank, comm.size).copy_(tensor_S)
            comm.all_gather(buffer_N).wait()
            if first:
                for slot in shard.bucket.slots:
                    run = buffer_N[slot.place.start : slot.place.stop]
                    full.setdefault(slot.name, {})[key] = slot.shaped(run).clone()
    for table in engine.tables:
        if table.owned is not None:
            gathered = {key: _gathered(table, tensor, comm) for key, tensor in table.tensors().items()}
            if first:
                full[table.slot.name] = {k: t if k in ROW_KEYS else table.slot.shaped(t) for k, t in gathered.items()}
    return full


def _gathered(table: LiveTable, own: Tensor, comm: Communicator) -> Tensor:
    """A state tensor of all rows, flat, on the first worker of an island; the others get their own back. Collective."""
    unit = own.numel() // max(1, table.stop - table.start)
    lengths = [unit * int(n) for n in table.bounds.diff()] if comm.rank == 0 else [0] * comm.size
    received = [torch.empty(length, dtype=own.dtype, device=own.device) for length in lengths]
    comm.all_to_all_uneven(received, [own] + [own[:0]] * (comm.size - 1)).wait()
    received[comm.rank] = own
    return torch.cat(received)


def scatter_full(
    engine: Engine,
    tensors: Mapping[str, Mapping[str, Tensor]],
    keys: Sequence[tuple[str, str]],
    counts: Mapping[str, int],
    numbers: Mapping[str, Mapping[str, float]],
) -> PieceSource:
    """Send whole state tensors from world rank 0 to everybody, who keep the runs they own. Collective.

    Args:
        engine: the engine that will be restored.
        tensors: by parameter name and key; read on rank 0 only.
        keys: which there are, in order, the same on every rank.
        counts: committed updates by parameter name.
        numbers: the rule's scalars by parameter name.
    """
    world = engine.mesh.world
    slots = {slot.name: slot for slot in engine.slots}
    tables = {table.slot.name: table for table in engine.tables}
    spans: dict[str, list[tuple[int, int]]] = {name: [table.span(MASTER)] for name, table in tables.items()}
    for bucket, owner in product(engine.buckets, engine.owners):
        for place in engine.layout.pieces(bucket.place.index, owner):
            spans.setdefault(engine.layout.params[place.param].name, []).append((place.start, place.stop))
    # Of parameters that this rank keeps nothing of, an empty run: what keys there are is checked on all ranks.
    owned = [(name, *span) for name in slots for span in spans.get(name, [(0, 0)])]
    kept: dict[tuple[str, int, int], dict[str, Tensor]] = {run: {} for run in owned}
    for name, key in keys:
        value = slots[name].value
        per_row = key in ROW_KEYS and name in tables
        numel = tables[name].place.num_rows if per_row else value.numel()
        buffer = world.allocate(numel, torch.int32 if per_row else state_dtype(value.dtype), value.device)
        if world.rank == 0:
            buffer.copy_(flat_real(tensors[name][key]))
        world.broadcast(buffer, src=0).wait()
        for run in (run for run in owned if run[0] == name):
            start, stop = tables[name].span(key) if name in tables else run[1:]
            kept[run][key] = buffer[start:stop].clone()
    widths = {name: table.place.width for name, table in tables.items()}
    runs = [HeldRun(*run, kept[run], widths.get(run[0], 1)) for run in owned]
    return PieceSource(runs, counts, numbers)


def _rules_own(keys: Iterable[str]) -> set[str]:
    return {key for key in keys if key not in _BESIDE and not key.startswith(OUTSTANDING)}


def _refuse_torn(engine: Engine) -> None:
    """A torn state must not pass for a good one; after an aborted step the state is good."""
    if engine.pushing is not None:
        engine.pushing.refuse_while_serving()
    if isinstance(engine.transaction.broken, StateLost):
        engine.transaction.refuse_if_broken()


def _check_keys(name: str, saved: set[str], kept: set[str], needed: bool = False) -> None:
    """Nothing at all is what a worker saved that owned nothing of the parameter, unless it is ``needed`` of all."""
    if (saved or needed) and saved != kept:
        raise CheckpointError(
            f"the saved state of {name!r} is {sorted(saved)} and this optimizer keeps {sorted(kept)}: load it into an "
            "optimizer of the same rule, built with the same options (amsgrad, for one)"
        )


def _read(source: StateSource, name: str, key: str, start: int, stop: int) -> Tensor:
    try:
        return source.read(name, key, start, stop)
    except LayoutError as error:
        raise CheckpointError(str(error)) from error
