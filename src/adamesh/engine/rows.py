"""The tables' part of a step: what reducer, owners and gather are for buckets, in the same transaction.

inspect   coalesce this rank's rows; what is wrong with them goes into the header
collect   who has touched which rows; their values to the owners, who sum them in rank order
commit    the row rule, and the new rows to everybody
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adamesh.engine.bucket import LiveSlot
from adamesh.engine.present import Present
from adamesh.engine.table import Landed, LiveTable
from adamesh.engine.travel import RowTravel
from adamesh.errors import AdameshError, ConfigurationError, GradientError
from adamesh.rules.base import Hyper

__all__ = ["RowStep"]


class RowStep:
    """Steps all tables of one optimizer on one rank; every method is collective but `inspect` and `check`."""

    def __init__(
        self, tables: list[LiveTable], travel: RowTravel, present: Present, hyper_names: Sequence[str]
    ) -> None:
        self.tables = tables
        self._travel = travel
        self._present = present
        self._hyper_names = hyper_names
        self._mine: dict[int, tuple[Tensor, Tensor]] = {}
        """Parameter number -> this rank's rows and their gradients, coalesced."""
        self._problem: GradientError | None = None

    @property
    def slots(self) -> list[LiveSlot]:
        """The tables' slots, in layout order."""
        return [table.slot for table in self.tables]

    @property
    def state_bytes(self) -> int:
        """Optimizer state of tables on this rank."""
        return sum(table.state_bytes for table in self.tables)

    @property
    def param_bytes(self) -> int:
        """The tables themselves."""
        return sum(table.param_bytes for table in self.tables)

    def check(self, hypers: Sequence[Hyper]) -> ConfigurationError | None:
        """Whether somebody has set a hyper-parameter that a table's rule cannot work with."""
        for table in self.tables:
            hyper = hypers[table.group]
            table.rule.check(hyper)
            missing = set(table.rule.state_names(hyper)) - table.owned.state.keys() if table.owned else set()
            if missing:
                return ConfigurationError(
                    f"a sparse parameter group was changed so that it needs {sorted(missing)}, which it has not kept "
                    "from the start (amsgrad cannot be switched on later): build a new optimizer"
                )
        return None

    def inspect(self) -> AdameshError | None:
        """Coalesce this rank's gradients; returns what is wrong with one of them, if anything is."""
        self._mine.clear()
        problem: AdameshError | None = self._present.changed()
        for table in self.tables:
            if problem is None and table.slot.fits:  # the transaction complains of one that does not
                problem = self._coalesce(table)
        return problem

    def wake(self, used: set[int], hypers: Sequence[Hyper]) -> None:
        """Give state to tables that were frozen, and that some rank used; no collective after all."""
        for table in self.tables:
            if table.slot.place.param in used and table.owned is None:
                table.wake(hypers[table.group])

    def refresh(self, slot: LiveSlot) -> None:
        """A parameter was changed from outside, on all ranks."""
        for table in self.tables:
            if table.slot is slot:
                table.refresh()

    def collect(self, used: set[int], scale: float) -> None:
        """Bring all touched rows to their owners; leaves ``scale * sum`` in each table's ``landed``.

        What is wrong is raised by `squares`, when all collectives of this step are behind us.
        """
        self._problem = None
        for table in self.tables:
            table.landed = None  # of a step that was aborted
        tables = [table for table in self.tables if table.slot.place.param in used]
        if not tables:
            return
        rows = [self._mine[table.slot.place.param][0] for table in tables]
        counts, _ = self._travel.announce(rows, "rows")
        small = all(table.place.num_rows < 2**31 for table in tables)
        touched = self._travel.tell(rows, counts, small)
        for group in _alike(tables, lambda table: table.dtype):
            self._sum([tables[i] for i in group], [touched[i] for i in group], scale)
        for table in tables:
            self._problem = self._problem or _read_too_early(table)

    def squares(self) -> float:
        """The sum of squares of the rows that have landed here; over all ranks each row counts exactly once."""
        if self._problem is not None:
            raise self._problem
        if self._travel.mesh.replicate.rank != 0:  # the other islands hold the same
            return 0.0
        norms = [float(torch.linalg.vector_norm(t.landed.grads, dtype=torch.float64)) for t in self.tables if t.landed]
        return sum(norm * norm for norm in norms)

    def gradients(self) -> Iterator[tuple[int, Tensor]]:
        """This rank's own gradients of the step under way: parameter number, and the values of its rows."""
        return ((param, values) for param, (_, values) in self._mine.items())

    def commit(self, hypers: Sequence[Hyper], coefficient: float) -> None:
        """Update the rows that have landed and give them to everybody."""
        tables = [table for table in self.tables if table.landed is not None]
        fresh = [table.update(hypers[table.group], coefficient) for table in tables]
        for group in _alike(tables, lambda table: table.values.dtype):
            owners = [tables[i].landed.by_owner for i in group]  # type: ignore[union-attr]
            counts = [[len(rows) for rows in by_owner] for by_owner in owners]
            arrived = self._travel.to_everybody([fresh[i] for i in group], counts)
            for i, by_owner, values in zip(group, owners, arrived, strict=True):
                self._publish(tables[i], torch.cat(by_owner), torch.cat(values))
        for table in tables:
            if table.exact:
                self._present.note(table, hypers[table.group], self._hyper_names)
            table.landed = None

    def close(self) -> None:
        """The step has ended, committed or not."""
        self._mine.clear()
        for table in self.tables:
            table.landed = None

    # -- inside ----------------------------------------------------------------------------------------------

    def _coalesce(self, table: LiveTable) -> GradientError | None:
        grad, values = table.slot.param.grad, table.values
        if grad is None:
            empty = torch.empty(0, dtype=torch.int64, device=values.device)
            self._mine[table.slot.place.param] = empty, values.new_empty((0, table.place.width), dtype=table.dtype)
            return None
        if grad.layout != torch.sparse_coo or grad.sparse_dim() != 1:
            return GradientError(
                f"the gradient of {table.slot.name!r}, which is in a group with sparse={table.mode!r}, is of layout "
                f"{grad.layout}: such groups take row-sparse gradients only. Build its layer with sparse=True, or, "
                "where other layers use the parameter too, move it to a group without 'sparse'"
            )
        # In full precision from the first sum on: a row may occur many times in a batch.
        wide = grad._values().detach().to(table.dtype)
        shape, coalesced = tuple(grad.shape), grad.is_coalesced()
        total = torch.sparse_coo_tensor(
            grad._indices(), wide, shape, is_coalesced=coalesced, check_invariants=False
        ).coalesce()
        rows = total.indices()[0]
        if shape != tuple(values.shape) or (len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < len(values)):
            return GradientError(
                f"the gradient of {table.slot.name!r} is of shape {shape} and of rows {rows[:1].tolist()} to "
                f"{rows[-1:].tolist()}, the parameter of shape {tuple(values.shape)}: they must fit each other"
            )
        self._mine[table.slot.place.param] = rows, total.values()
        return None

    def _sum(self, tables: list[LiveTable], touched: list[list[Tensor]], scale: float) -> None:
        """Sum within the island, in rank order, then across islands, in their order."""
        mesh = self._travel.mesh
        me, size, first = mesh.shard.rank, mesh.shard.size, mesh.replicate.rank * mesh.shard.size
        # By table, by rank of the world: the rows that are this rank's to own.
        owned = [[t.by_owner(rows)[me] for rows in by_rank] for t, by_rank in zip(tables, touched, strict=True)]
        islands = [[_union(by[i : i + size]) for i in range(0, len(by), size)] for by in owned]

        values = []
        for table in tables:
            rows, grads = self._mine[table.slot.place.param]
            values.append(list(grads.split([len(part) for part in table.by_owner(rows)])))
        sources = [by_rank[first : first + size] for by_rank in owned]
        arrived = self._travel.to_owners(mesh.shard, values, [[len(r) for r in by] for by in sources])
        totals = [
            _summed(own[mesh.replicate.rank], by, parts)
            for own, by, parts in zip(islands, sources, arrived, strict=True)
        ]
        if mesh.replicate.size > 1:
            copies = [[total] * mesh.replicate.size for total in totals]
            arrived = self._travel.to_owners(mesh.replicate, copies, [[len(r) for r in by] for by in islands])
            totals = [_summed(_union(by), by, parts) for by, parts in zip(islands, arrived, strict=True)]
        for table, by_rank, total in zip(tables, touched, totals, strict=True):
            owners = table.by_owner(_union(by_rank))
            table.landed = Landed(owners, owners[me], total.mul_(scale))

    @staticmethod
    def _publish(table: LiveTable, rows: Tensor, values: Tensor) -> None:
        table.write(rows, values)
        table.slot.steps += 1
        if table.exact:
            table.seen[rows] = table.slot.steps
        increment_version(table.slot.param)
        table.slot.publish()


def _read_too_early(table: LiveTable) -> GradientError | None:
    """Whether rows got a gradient that nobody had brought to the present; the same answer on every rank."""
    assert table.landed is not None
    if not table.missed:
        return None
    rows = torch.cat(table.landed.by_owner)
    late = rows[table.behind(rows)]
    if not len(late):
        return None
    return GradientError(
        f"row {int(late[0])} of {table.slot.name!r} has a gradient that was computed from a value "
        f"{table.slot.steps - int(table.seen[late[0]])} steps behind: with sparse='exact' the table must be read "
        "through the modules of its group, in training mode. Read it so, or call optimizer.flush() before each forward"
    )


def _alike(tables: Sequence[LiveTable], dtype_of: Callable[[LiveTable], torch.dtype]) -> Iterator[list[int]]:
    """The positions of tables of one dtype, which travel together."""
    dtypes = [dtype_of(table) for table in tables]
    for dtype in dict.fromkeys(dtypes):
        yield [i for i, other in enumerate(dtypes) if other == dtype]


def _union(rows: Sequence[Tensor]) -> Tensor:
    union: Tensor = torch.unique(torch.cat([*rows]))
    return union


def _summed(rows: Tensor, sources: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The sum of what came for each of ``rows``, in the order of sources."""
    total: Tensor = values[0].new_zeros((len(rows), values[0].shape[1]))
    for theirs, part in zip(sources, values, strict=True):
        # No number occurs twice in one source: no order is left to chance, on a GPU either.
        total.index_add_(0, torch.searchsorted(rows, theirs), part)
    return total
