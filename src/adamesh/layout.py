"""Parameters -> buckets, slots and shards: all geometry, as frozen integers, decided once.

A *bucket* is a flat run of parameters of one (dtype, device, param group), filled in reverse registration
order because that is roughly the order in which backward finishes their gradients. A *slot* is one
parameter's place in a bucket; a *shard* is the equal slice of a bucket that one rank owns. Slots start, and
shards end, on multiples of ``grain`` elements, so that a block codec's grid is the same at any world size.
A *table* is a parameter with row-sparse gradients: it is cut by rows, and lies in no bucket.

Nothing here knows tensors or ranks: the same parameters give the same layout on every worker, and
:meth:`Layout.description` is what workers compare to be sure of it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

from adamesh.errors import LayoutError

__all__ = ["GRAIN", "Bucket", "Layout", "ParamSpec", "Piece", "Slot", "Table", "build_layout", "first_mismatch"]

GRAIN = 64
"""Elements. A multiple of a cache line in every dtype, and the smallest block of the block codecs."""


@dataclass(frozen=True)
class ParamSpec:
    """What the layout needs to know of one parameter; a complex one counts as its real view."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    group: int
    itemsize: int
    frozen: bool = False
    sparse: str = ""
    """The mode in which its rows are updated, if its gradients are row-sparse: then it is a table, in no bucket."""

    @property
    def numel(self) -> int:
        numel = 1
        for length in self.shape:
            numel *= length
        return numel


@dataclass(frozen=True)
class Slot:
    """Where parameter number ``param`` lies in its bucket, in elements."""

    param: int
    start: int
    stop: int


@dataclass(frozen=True)
class Piece:
    """The part of a slot that falls into one shard.

    ``start:stop`` are element offsets in the flattened *parameter*; ``offset`` is where ``start`` lies in the
    *shard*.
    """

    param: int
    start: int
    stop: int
    offset: int


@dataclass(frozen=True)
class Bucket:
    """A flat, padded run of parameters that travels as one."""

    index: int
    dtype: str
    device: str
    group: int
    dormant: bool
    """All its parameters were frozen when it was laid out: it neither travels nor has state until one is used."""
    slots: tuple[Slot, ...]
    numel: int

    def shard_range(self, rank: int, num_shards: int) -> tuple[int, int]:
        """``(start, stop)`` of a rank's shard, in elements of the bucket."""
        length = self.numel // num_shards
        return rank * length, (rank + 1) * length


@dataclass(frozen=True)
class Table:
    """A parameter whose gradients are row-sparse: it lies in no bucket, and only the rows touched travel.

    Each rank of an island owns a run of neighbouring rows; the runs differ by one row at most.
    """

    param: int
    num_rows: int
    width: int
    """Elements in a row."""

    def row_range(self, rank: int, num_shards: int) -> tuple[int, int]:
        """``(start, stop)`` of a rank's rows."""
        return self.num_rows * rank // num_shards, self.num_rows * (rank + 1) // num_shards

    def row_bounds(self, num_shards: int) -> tuple[int, ...]:
        """Where the ranks' rows start, and where the last one's stop."""
        return tuple(self.num_rows * rank // num_shards for rank in range(num_shards + 1))


@dataclass(frozen=True)
class Layout:
    """All buckets of an optimizer on a mesh of ``num_replicas x num_shards``."""

    params: tuple[ParamSpec, ...]
    buckets: tuple[Bucket, ...]
    num_shards: int
    num_replicas: int = 1
    grain: int = GRAIN
    tables: tuple[Table, ...] = ()

    def pieces(self, bucket: int, rank: int) -> tuple[Piece, ...]:
        """The parts of slots that shard ``rank`` of a bucket holds, in order, empty ones left out."""
        start, stop = self.buckets[bucket].shard_range(rank, self.num_shards)
        pieces = []
        for slot in self.buckets[bucket].slots:
            low, high = max(slot.start, start), min(slot.stop, stop)
            if low < high:
                pieces.append(Piece(slot.param, low - slot.start, high - slot.start, low - start))
        return tuple(pieces)

    @cached_property
    def description(self) -> bytes:
        """Canonical JSON of everything that must be alike on all ranks."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def extended(self, params: Sequence[ParamSpec], bucket_bytes: int) -> "Layout":
        """This layout with the parameters of one more group, in buckets of their own behind the others.

        Raises:
            LayoutError: two parameters have one name.
        """
        _check_names([*self.params, *params])
        more = build_layout(params, self.num_shards, self.num_replicas, bucket_bytes, self.grain)
        buckets = tuple(
            replace(
                bucket,
                index=bucket.index + len(self.buckets),
                slots=tuple(replace(slot, param=slot.param + len(self.params)) for slot in bucket.slots),
            )
            for bucket in more.buckets
        )
        tables = tuple(replace(table, param=table.param + len(self.params)) for table in more.tables)
        return replace(
            self,
            params=self.params + more.params,
            buckets=self.buckets + buckets,
            tables=self.tables + tables,
        )


def build_layout(
    params: Sequence[ParamSpec],
    num_shards: int,
    num_replicas: int = 1,
    bucket_bytes: int = 25 << 20,
    grain: int = GRAIN,
) -> Layout:
    """Lay parameters out in buckets of about ``bucket_bytes``; a larger parameter gets a bucket of its own.

    Args:
        params: in registration order.
        num_shards: workers in an island; every bucket is padded so that it can be cut into as many shards.
        num_replicas: islands; each shard is padded so that it can be cut once more among them.
        bucket_bytes: a bucket is closed before it would grow beyond this.
        grain: elements; slots start and shards end on its multiples.

    Raises:
        LayoutError: two parameters have one name.
    """
    _check_names(params)
    tables = tuple(Table(index, *param.shape) for index, param in enumerate(params) if param.sparse)
    unit = grain * num_shards * num_replicas
    open_runs: dict[tuple[str, str, int, bool], list[int]] = {}
    closed: list[list[int]] = []
    for index in reversed(range(len(params))):
        param = params[index]
        if param.sparse:
            continue
        key = (param.dtype, param.device, param.group, param.frozen)
        run = open_runs.setdefault(key, [])
        held = sum(_padded(params[i].numel, grain) for i in run) * param.itemsize
        if run and held + param.numel * param.itemsize > bucket_bytes:
            closed.append(run)
            run = open_runs[key] = []
        run.append(index)
    closed.extend(open_runs.values())
    # A bucket can leave when its last-filled slot, the lowest parameter index, has its gradient.
    closed.sort(key=lambda run: -run[-1])

    buckets = []
    for position, run in enumerate(closed):
        slots, start = [], 0
        for index in run:
            slots.append(Slot(index, start, start + params[index].numel))
            start += _padded(params[index].numel, grain)
        first = params[run[0]]
        numel = max(_padded(start, unit), unit)
        buckets.append(Bucket(position, first.dtype, first.device, first.group, first.frozen, tuple(slots), numel))
    return Layout(tuple(params), tuple(buckets), num_shards, num_replicas, grain, tables)


def _check_names(params: Sequence[ParamSpec]) -> None:
    seen: dict[str, int] = {}
    for index, param in enumerate(params):
        if param.name in seen:
            raise LayoutError(
                f"parameters {seen[param.name]} and {index} are both named {param.name!r}; names must be unique, "
                "because checkpoints find state by name. Rename one of them"
            )
        seen[param.name] = index


def first_mismatch(ours: bytes, theirs: bytes) -> str:
    """Say where two layout descriptions part ways, naming the first parameter that differs."""
    mine, other = json.loads(ours), json.loads(theirs)
    for index, (a, b) in enumerate(zip(mine["params"], other["params"], strict=False)):
        if a != b:
            fields = [f"{key} {a[key]!r} against {b[key]!r}" for key in a if a[key] != b[key]]
            return f"parameter {index} ({a['name']!r}): " + ", ".join(fields)
    if len(mine["params"]) != len(other["params"]):
        shorter = min(len(mine["params"]), len(other["params"]))
        longer = mine if len(mine["params"]) > shorter else other
        name = longer["params"][shorter]["name"]
        return f"{len(mine['params'])} parameters against {len(other['params'])}; the first one too many is {name!r}"
    fields = [f"{key} {mine[key]!r} against {other[key]!r}" for key in mine if mine[key] != other[key]]
    return ("the plan's geometry: " + ", ".join(fields))[:500]


def _padded(numel: int, unit: int) -> int:
    return -(-numel // unit) * unit
