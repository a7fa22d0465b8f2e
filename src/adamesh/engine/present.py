"""Rows brought to the present: what exact tables owe to rows that no step touched, paid before anybody reads them.

Every rank knows which update each row has last made, because every rank hears which rows a step touches. So all agree
which rows are behind; owners replay what those missed, and the island takes the result. It counts as made when it has
arrived: a replay that is cut short has changed nothing here.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adamesh.engine.reducer import Reducer
from adamesh.engine.table import LiveTable
from adamesh.engine.travel import RowTravel
from adamesh.errors import ParameterError
from adamesh.rules.base import Hyper
from adamesh.rules.exact_rows import ExactRows, Missed

__all__ = ["Present"]

_HISTORY = 1000
"""Steps. With that many behind, all rows are brought to the present, so that neither the history nor the time that a
row's replay takes can grow without bound."""
_DIRTY, _CHANGED = 1, 2
"""What a rank may have to say before rows are read: gradients have left here; the table was written to here."""
_CHUNK = 1 << 22
"""Elements that an owner replays and sends at a time: temporary memory."""


class Present:
    """Refreshes the exact tables of one optimizer."""

    def __init__(self, tables: list[LiveTable], travel: RowTravel, reducer: Reducer) -> None:
        self._tables = tables
        self._travel = travel
        self._reducer = reducer

    def refresh(self, table: LiveTable, rows: Tensor) -> None:
        """Bring the rows that any rank is about to read to the present, on all ranks. Collective.

        Args:
            table: exact, with steps missed.
            rows: what this rank is going to read: any numbers, any order.
        """
        wanted = self._late_among(table, rows)
        mine = _DIRTY * self._reducer.dirty + _CHANGED * table.slot.changed
        counts, flags = self._travel.announce([wanted], "read rows", mine)
        if flags & _CHANGED:
            raise changed_while_behind(table)
        if flags & _DIRTY:
            # Buckets that left on some ranks only would be taken for rows on the others.
            self._reducer.flush()
        everybodys = self._travel.tell([wanted], counts, table.place.num_rows < 2**31)[0]
        self._bring(table, table.by_owner(torch.unique(torch.cat(everybodys))))

    def refuse(self, table: LiveTable, rows: Tensor) -> None:
        """Raise if this rank is about to read rows that are behind, where not all ranks take part."""
        late = self._late_among(table, rows)
        if len(late):
            raise ParameterError(
                f"row {int(late[0])} of {table.slot.name!r} is {table.slot.steps - int(table.seen[late[0]])} steps "
                f"behind: with sparse='exact', rows are brought up to date when they are read in training mode, or all "
                "at once. Call optimizer.flush() on every worker before evaluating"
            )

    def changed(self) -> ParameterError | None:
        """Whether this rank sees that somebody wrote to a table of which some rows have yet to move."""
        written = [table for table in self._tables if table.missed and table.slot.changed]
        return changed_while_behind(written[0]) if written else None

    def flush(self) -> None:
        """Bring all rows of all tables to the present. Collective; all ranks have launched the same buckets."""
        for table in self._tables:
            if table.missed:
                self._flush(table)

    def note(self, table: LiveTable, hyper: Hyper, names: Sequence[str]) -> None:
        """A step of the table was committed: rows that it did not touch have missed it."""
        kept = {name: _plain(hyper[name]) for name in names if name in hyper}
        table.missed.append(Missed(table.slot.steps, kept))
        if len(table.missed) >= _HISTORY:
            self._flush(table)

    def _flush(self, table: LiveTable) -> None:
        owners = table.by_owner(torch.nonzero(table.behind(slice(None))).squeeze(1))
        length = max(1, _CHUNK // max(1, table.place.width))
        for start in range(0, max(map(len, owners)), length):
            self._bring(table, [rows[start : start + length] for rows in owners])
        table.missed.clear()

    def _bring(self, table: LiveTable, owners: list[Tensor]) -> None:
        """Replay what these rows missed, by owner and ascending, the same on every rank, and take the result."""
        if not any(map(len, owners)):
            return
        index = owners[table.rank] - table.start
        params, state = self._replayed(table, index)
        counts = [list(map(len, owners))]
        fresh = self._travel.to_everybody([params.to(table.values.dtype)], counts)[0]
        table.put(index, params, state)
        rows = torch.cat(owners)
        table.write(rows, torch.cat(fresh))
        table.seen[rows] = table.slot.steps

    @staticmethod
    def _replayed(table: LiveTable, index: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert table.owned is not None and isinstance(table.rule, ExactRows)
        seen, order = torch.sort(table.own_seen[index], stable=True)
        ordered = index[order]
        params = table.owned.master[ordered]
        state = {name: tensor[ordered] for name, tensor in table.owned.state.items()}
        table.rule.replay(params, state, seen, table.missed)
        back = torch.argsort(order)
        return params[back], {name: tensor[back] for name, tensor in state.items()}

    @staticmethod
    def _late_among(table: LiveTable, rows: Tensor) -> Tensor:
        # A number that is out of range is the module's to complain about.
        rows = torch.unique(rows.detach().long())
        rows = rows[(rows >= 0) & (rows < table.place.num_rows)]
        return rows[table.behind(rows)]


def changed_while_behind(table: LiveTable) -> ParameterError:
    """What to say when somebody wrote to a table of which some rows have yet to move: there is no telling where to."""
    return ParameterError(
        f"{table.slot.name!r} was changed from outside while, with sparse='exact', some of its rows were steps behind. "
        "Call optimizer.flush() on every worker before changing it; to go on from here, load a checkpoint"
    )


def _plain(value: object) -> object:
    return value.item() if isinstance(value, Tensor) else value
