"""A table's memory: a parameter with row-sparse gradients, whole on every rank, and this rank's rows of its state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from adamesh.comm.base import Communicator, Mesh
from adamesh.engine.bucket import LiveSlot, flat_real, state_dtype
from adamesh.errors import IncompatiblePlan, ParameterError
from adamesh.layout import Layout, ParamSpec, Slot, Table
from adamesh.rules.base import Hyper, Rule
from adamesh.rules.exact_rows import Missed
from adamesh.rules.row_modes import row_rule
from adamesh.rules.rows import RowRule, Rows
from adamesh.sync.base import Schedule, is_every_step

__all__ = [
    "MASTER",
    "ROW_KEYS",
    "Landed",
    "LiveTable",
    "OwnedRows",
    "check_table",
    "live_tables",
]

ROW_COUNT, ROW_SEEN = "row_count", "row_seen"
ROW_KEYS = (ROW_COUNT, ROW_SEEN)
"""State with one number a row: the row's own updates, and the number of the table's update that it has last made."""
MASTER = "master"
"""The key of a separate full-precision master among a parameter's state tensors."""


@dataclass
class OwnedRows:
    """The state of this rank's rows: row ``i`` of each tensor is row ``start + i`` of the table."""

    state: Mapping[str, Tensor]
    count: Tensor
    master: Tensor
    """[rows, width] in the state's precision: the table's own memory where that has it."""
    separate: bool
    """The master is a copy, because the table is of lower precision."""


@dataclass
class Landed:
    """What a step brought, until it is committed or dropped."""

    by_owner: list[Tensor]
    """The rows that somebody touched, by owner, each ascending: the same on every rank."""
    rows: Tensor
    """Those of them that this rank owns."""
    grads: Tensor
    """[rows, width]: their mean gradient."""


class LiveTable:
    """One table: where it lies, what this rank owns of it, and which update each row has last made.

    Like a parameter in a bucket it has a slot, through which headers, checkpoints and changes from outside see it; its
    slot is its own memory, so building an optimizer moves nothing.
    """

    def __init__(self, spec: ParamSpec, param: nn.Parameter, place: Table, rule: RowRule, comm: Communicator) -> None:
        # .data, whose version counter is its own: whether a write shall count as one is decided where it is made.
        flat = flat_real(param.data)
        self.slot = LiveSlot(spec.name, param, Slot(place.param, 0, place.num_rows * place.width), flat)
        self.slot.adopt()
        self.place = place
        self.group = spec.group
        self.mode = spec.sparse
        self.rule = rule
        self.rank = comm.rank
        self.start, self.stop = place.row_range(comm.rank, comm.size)
        self.bounds = torch.tensor(place.row_bounds(comm.size), device=param.device)
        self.values = self.slot.value.view(place.num_rows, place.width)
        self.owned: OwnedRows | None = None
        self.seen = torch.empty(0, dtype=torch.int32, device="cpu")
        """[all rows] where the mode is exact, so that every rank can tell which rows are behind; else [own rows]."""
        self.missed: list[Missed] = []
        """The steps that some rows may have yet to make; always empty unless the mode is exact."""
        self.landed: Landed | None = None

    @property
    def exact(self) -> bool:
        """The rows that no step touches move as well, before they are read."""
        return self.mode == "exact"

    @property
    def dtype(self) -> torch.dtype:
        """What gradients, masters and moments are kept in."""
        return state_dtype(self.values.dtype)

    @property
    def own_seen(self) -> Tensor:
        """[own rows] of ``seen``."""
        return self.seen[self.start : self.stop] if self.exact else self.seen

    @property
    def state_bytes(self) -> int:
        """Moments, counts, and the master where it is kept apart."""
        if self.owned is None:
            return 0
        tensors = [*self.owned.state.values(), self.owned.count, self.seen]
        tensors += [self.owned.master] if self.owned.separate else []
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def param_bytes(self) -> int:
        """The table itself."""
        return self.values.numel() * self.values.element_size()

    def wake(self, hyper: Hyper) -> None:
        """Allocate the state, all zero; a table that was frozen puts it off until it is used."""
        own = self.values[self.start : self.stop]
        separate = self.dtype != own.dtype
        count = torch.zeros(len(own), dtype=torch.int32, device=own.device)
        state = {name: torch.zeros_like(own, dtype=self.dtype) for name in self.rule.state_names(hyper)}
        self.owned = OwnedRows(state, count, own.to(self.dtype) if separate else own, separate)
        num_seen = self.place.num_rows if self.exact else len(own)
        self.seen = torch.zeros(num_seen, dtype=torch.int32, device=own.device)

    def by_owner(self, rows: Tensor) -> list[Tensor]:
        """Ascending row numbers, cut by owner."""
        cuts = torch.searchsorted(rows, self.bounds).tolist()
        return [rows[start:stop] for start, stop in pairwise(cuts)]

    def behind(self, rows: Tensor | slice) -> Tensor:
        """For each of these rows of an exact table, whether it has yet to make a step that would move it."""
        seen = self.seen[rows]
        late = seen < self.slot.steps
        # A row that was never touched has no momentum: without weight decay dense Adam leaves it where it is.
        decays = any(float(step.hyper["weight_decay"]) for step in self.missed)
        return late if decays else late & (seen > 0)

    def write(self, rows: Tensor, values: Tensor) -> None:
        """Overwrite rows of the table itself; nothing is said of it to autograd."""
        self.values[rows] = values

    def refresh(self) -> None:
        """The table was changed from outside, on all ranks: take its new values as the masters'.

        Where a value is still its master's rounding, the master stays.
        """
        if self.owned is not None and self.owned.separate:
            own, master = self.values[self.start : self.stop], self.owned.master
            master.copy_(torch.where(master.to(own.dtype) == own, master, own.to(master.dtype)))

    def update(self, hyper: Hyper, coefficient: float) -> Tensor:
        """Take the rule's step on the rows that have landed; returns them as the table will hold them."""
        assert self.owned is not None and self.landed is not None
        number, index = self.slot.steps + 1, self.landed.rows - self.start
        grads = self.landed.grads if coefficient == 1.0 else self.landed.grads.mul_(coefficient)
        counts, seen = self.owned.count[index] + 1, self.own_seen
        params = self.owned.master[index]
        state = {name: tensor[index] for name, tensor in self.owned.state.items()}
        self.rule.update(Rows(params, grads, state, number, counts, number - seen[index]), hyper)
        self.put(index, params, state)
        self.owned.count[index] = counts
        seen[index] = number
        return params.to(self.values.dtype)

    def span(self, key: str) -> tuple[int, int]:
        """This rank's ``(start, stop)`` of a state tensor, flat, in its own numbers."""
        unit = 1 if key in ROW_KEYS else self.place.width
        return self.start * unit, self.stop * unit

    def tensors(self) -> dict[str, Tensor]:
        """This rank's state, flat, as views."""
        assert self.owned is not None
        tensors = {name: tensor.view(-1) for name, tensor in self.owned.state.items()}
        tensors |= {ROW_COUNT: self.owned.count, ROW_SEEN: self.own_seen}
        return tensors | ({MASTER: self.owned.master.view(-1)} if self.owned.separate else {})

    def restore(self, saved: Mapping[str, Tensor], steps: int) -> None:
        """Overwrite this rank's state: by ``saved``, flat, if the table has made steps, else by that of a new one."""
        self.missed.clear()
        if self.owned is None:
            return
        own = self.values[self.start : self.stop]
        for name, tensor in self.owned.state.items():
            tensor.copy_(saved[name].view(tensor.shape)) if steps else tensor.zero_()
        if self.owned.separate:
            self.owned.master.copy_(saved[MASTER].view(own.shape) if MASTER in saved else own)
        self.owned.count.copy_(saved.get(ROW_COUNT, torch.tensor(steps, device="cpu")))
        if self.exact:
            # Saved rows are up to date. Which were never touched is known to their owners only, and all must agree.
            self.seen.fill_(steps)
        else:
            self.seen.copy_(saved.get(ROW_SEEN, torch.tensor(steps, device="cpu")))

    def put(self, index: Tensor, params: Tensor, state: Mapping[str, Tensor]) -> None:
        """Overwrite own rows number ``index``, from 0, in the master and in the state."""
        assert self.owned is not None
        self.owned.master[index] = params
        for name, tensor in state.items():
            self.owned.state[name][index] = tensor


def check_table(name: str, param: nn.Parameter, mode: str, sync: Schedule) -> None:
    """Raise if a parameter of a sparse group cannot be updated by rows, or not under this schedule."""
    if param.dim() != 2 or param.is_complex() or not param.is_contiguous():
        raise ParameterError(
            f"parameter {name!r} in a group with sparse={mode!r} is {tuple(param.shape)} {param.dtype}, strides "
            f"{param.stride()}: a table must be real, contiguous and of two dimensions, as the weight of an "
            "nn.Embedding is. Move it to a group without 'sparse'"
        )
    if not is_every_step(sync):
        raise IncompatiblePlan(
            f"parameter {name!r} is in a group with sparse={mode!r} and the plan has sync={sync}: rows are exchanged "
            "every step. Use sync=EveryStep(), or a group without 'sparse' and layers with sparse=False"
        )


def live_tables(
    layout: Layout, first: int, params: Sequence[nn.Parameter], hypers: Sequence[Hyper], mesh: Mesh, rule: Rule
) -> list[LiveTable]:
    """Make tables ``first`` and later of a layout, with the first worker's values. Collective.

    Those that were frozen when the layout was made get no state yet.
    """
    tables = []
    for place in layout.tables[first:]:
        spec = layout.params[place.param]
        table = LiveTable(spec, params[place.param], place, row_rule(spec.sparse, rule), mesh.shard)
        mesh.world.broadcast(table.slot.value, src=0).wait()
        table.slot.publish()
        if not spec.frozen:
            table.wake(hypers[spec.group])
        tables.append(table)
    return tables
