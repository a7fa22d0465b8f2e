"""The engine: layout, buckets, reducer, hooks and transaction of one optimizer on one rank, put together."""

import hashlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from adamesh.codecs.base import Codec
from adamesh.comm.accord import agree, first_says
from adamesh.comm.base import Mesh
from adamesh.comm.company import Company
from adamesh.engine.bucket import LiveBucket, LiveSlot, live_buckets
from adamesh.engine.hooks import Hooks
from adamesh.engine.meter import Meter, StepStats
from adamesh.engine.mirrors import Mirrors
from adamesh.engine.owner import Shard
from adamesh.engine.present import Present
from adamesh.engine.pushing.chunks import Owner
from adamesh.engine.pushing.pushing import Pushing
from adamesh.engine.readers import Readers, check_readers
from adamesh.engine.reducer import Reducer
from adamesh.engine.rows import RowStep
from adamesh.engine.table import LiveTable, check_table, live_tables
from adamesh.engine.transaction import Outcome, Transaction
from adamesh.engine.travel import RowTravel
from adamesh.engine.wiring import Wiring, alone
from adamesh.errors import AdameshError, CommunicationError, ConfigurationError, LayoutError, ParameterError
from adamesh.layout import Layout, ParamSpec, build_layout, first_mismatch
from adamesh.membership.base import Membership
from adamesh.plan import Plan
from adamesh.rules.base import Hyper, Rule

__all__ = ["Engine", "without_params"]

Result = TypeVar("Result")


class Engine:
    """Everything an optimizer does between ``backward`` and new parameters. Building it is collective."""

    def __init__(
        self,
        rule: Rule,
        plan: Plan,
        mesh: Mesh,
        device: torch.device,
        clock: Callable[[], float],
        compiled: Mapping[Codec, Codec],
        epoch: int = 0,
        company: Company | None = None,
    ) -> None:
        self.mesh = mesh
        self.rule = rule
        self.plan = plan
        self.buckets: list[LiveBucket] = []
        plan.full_wire.check_mesh(*mesh.shape)
        self.layout = Layout((), (), mesh.shard.size, mesh.replicate.size)
        self.device = device
        self._meter = Meter(clock)
        membership = Membership(mesh.world.size, epoch)
        pushes, crosses = plan.sync.at(0).pushes is not None, plan.sync.at(0).gradients
        # Weakly, here and below: an optimizer that nobody uses any more must go at once, and its connections with it.
        frozen = weakref.WeakMethod(self.frozen)
        # Gradients that are pushed go no way that all workers take together, and leave in step().
        wiring = (
            alone()
            if pushes
            else Wiring(mesh, plan.full_wire, compiled, lambda: _called(frozen), gradients_cross=crosses)
        )
        self.reducer = Reducer(self.buckets, wiring, plan.overlap and not pushes, self._meter)
        self.tables: list[LiveTable] = []
        travel = RowTravel(mesh, self._meter)
        self.present = Present(self.tables, travel, self.reducer)
        rows = RowStep(self.tables, travel, self.present, rule.hyper_names)
        self.pushing: Pushing | None = None
        """What makes steps in place of transactions, under ``Async``."""
        self.transaction: Transaction | Pushing
        if pushes:
            owner = Owner(lambda: self.layout, self._shard, rule, plan, mesh.world)
            self.pushing = Pushing(mesh, plan, self.reducer, rule, self._meter, owner, self.hyper, wiring)
            self.transaction = self.pushing
        else:
            mirrors = Mirrors(mesh.shard, plan.redundancy, self._meter)
            self.transaction = Transaction(
                wiring, self.reducer, rule, plan.sync, membership, self._meter, rows, mirrors, company, plan.guard
            )
        self.hooks = Hooks(self.reducer)
        self._readers = Readers(self.read, self.hooks)
        self.hypers: Sequence[Hyper] = ()
        """The parameter groups, as they last were."""
        self.last_stats: StepStats = self.transaction.stats(committed=False)

    @property
    def slots(self) -> list[LiveSlot]:
        """All slots, in layout order: those in buckets, then the tables'."""
        return [slot for bucket in self.buckets for slot in bucket.slots] + [table.slot for table in self.tables]

    def extend(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        group: int,
        hypers: Sequence[Hyper],
        modules: Sequence[nn.Module] = (),
        *,
        from_first: bool = True,
    ) -> None:
        """Take in the parameters of one or more groups from number ``group`` on. Collective.

        Args:
            named: names and parameters; those of ``hypers[group]`` first.
            group: the index of the first new group.
            hypers: all parameter groups.
            modules: those that read tables whose groups are exact.
            from_first: give everybody the first worker's values; else each keeps its own.
        """
        self.hypers = hypers
        params = [param for _, param in named]
        specs = self._specs(named, group, hypers)
        exact = [pair for pair, spec in zip(named, specs, strict=True) if spec.sparse == "exact"]
        check_readers(exact, modules)
        bucket_bytes = int(self.plan.bucket_mb * 2**20)
        first = len(self.layout.buckets)
        if not self.layout.params:
            shape = self.mesh.shard.size, self.mesh.replicate.size
            layout = build_layout(specs, *shape, bucket_bytes, self.plan.full_wire.grain)
        else:
            layout = self.layout.extended(specs, bucket_bytes)
        if self.pushing is not None and self.layout.params:
            self.pushing.flush()
        self._compare(layout)
        self.quiesce()
        everybody = [slot.param for slot in sorted(self.slots, key=lambda slot: slot.place.param)] + params
        fresh = live_buckets(layout, first, everybody, self.mesh, self.device)
        for bucket in fresh:
            if from_first:
                self.mesh.world.broadcast(bucket.param_N, src=0).wait()
            for slot in bucket.slots:
                slot.publish()
        tables = live_tables(layout, len(self.tables), everybody, hypers, self.mesh, self.rule)
        self.layout = layout
        self.buckets.extend(fresh)
        for bucket in fresh:
            if not bucket.place.dormant:
                self.wake(bucket)
        self.tables.extend(tables)
        self.hooks.attach(fresh)
        self.hooks.claim([table.slot for table in tables])
        self._readers.attach(modules, tables)
        held = self.transaction.stats(committed=False)
        self.last_stats = replace(self.last_stats, state_bytes=held.state_bytes, buffer_bytes=held.buffer_bytes)

    @property
    def held(self) -> list[Shard]:
        """All slices that are kept up here: this rank's own, and those that it mirrors."""
        mirrored = self.transaction.mirrors.shards if isinstance(self.transaction, Transaction) else []
        return [*self.transaction.shards.values(), *mirrored]

    @property
    def owners(self) -> list[int]:
        """Whose slices are kept up here, this rank first."""
        mirrored = self.transaction.mirrors.owners if isinstance(self.transaction, Transaction) else []
        return [self.mesh.shard.rank, *mirrored]

    def wake(self, bucket: LiveBucket) -> None:
        """Let a bucket travel, and give it a master and state."""
        self.reducer.wake(bucket)
        if self.pushing is not None:
            self.pushing.connect(bucket)
        else:
            shard = self.transaction.shards[bucket.place.index] = self._shard(bucket)
            self.transaction.agreement.adopt(shard)
            if isinstance(self.transaction, Transaction):
                self.transaction.mirrors.adopt(bucket, self._mirror)
            if self.plan.wire.sends_momentum:
                moment_S = shard.state_S["exp_avg"]
                hyper, group = weakref.WeakMethod(self.hyper), bucket.place.group
                bucket.momentum = lambda: (moment_S, float(_called(hyper, group)["betas"][0]))

    def _shard(self, bucket: LiveBucket) -> Shard:
        for slot in bucket.slots:
            slot.scalars = self._new_scalars()
        scalars = {slot.place.param: slot.scalars for slot in bucket.slots}
        names, separate = self.state_names(bucket), self.keeps_master(bucket)
        return Shard(bucket, self.layout, self.mesh.shard.rank, names, scalars, separate=separate)

    def _mirror(self, bucket: LiveBucket, owner: int) -> Shard:
        scalars = {slot.place.param: self._new_scalars() for slot in bucket.slots}
        return Shard(bucket, self.layout, owner, self.state_names(bucket), scalars, separate=True)

    def _new_scalars(self) -> dict[str, Tensor]:
        return {
            name: torch.tensor(value, dtype=torch.float32, device=self.device)
            for name, value in self.rule.scalars.items()
        }

    def frozen(self) -> bool:
        """Whether second moments are frozen; the first group speaks for all."""
        return bool(self.hypers) and self.hypers[0].get("frozen_after") is not None

    def keeps_master(self, bucket: LiveBucket) -> bool:
        """Whether a bucket's master is kept apart from what replicas hold, which is less."""
        # Of a slice that others push into, the model gets what was answered.
        return bucket.low_precision or self.plan.full_wire.down is not None or self.pushing is not None

    def state_names(self, bucket: LiveBucket) -> tuple[str, ...]:
        """The state tensors that the rule keeps for a bucket's parameters."""
        return tuple(self.rule.state_names(self.hyper(bucket.place.group)))

    def hyper(self, group: int) -> Hyper:
        """A parameter group, as it last was."""
        return self.hypers[group]

    def step(self, hypers: Sequence[dict[str, Any]], loss_scale: float | None) -> Outcome:
        """One transaction; see :mod:`adamesh.engine.transaction`. What it makes of the groups is written to them."""
        if self.hooks.superseded is not None:
            raise ParameterError(
                f"parameter {self.hooks.superseded!r} belongs to a newer optimizer by now, so this one no longer sees "
                "its gradient. Step the newer one, or build one optimizer with several parameter groups"
            )
        self.hypers = hypers
        if self.plan.balance and self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # what is still computed is this worker's work
        try:
            outcome = self.transaction.run(hypers, self.wake, self.plan.max_grad_norm, loss_scale)
            for hyper in hypers:
                hyper.update(outcome.entries)
            after = hypers[0].get("frozen_after")
            made = self.transaction.stats(outcome.committed)
            self.last_stats = replace(made, frozen_after=after, refusal=outcome.refusal)
        finally:
            self._meter.reset()
        self.hooks.attach(self.buckets)
        return outcome

    def tell_loss(self, loss: float | Tensor) -> None:
        """The guard, if there is one, judges the mean of what workers say of the step that comes."""
        if isinstance(self.transaction, Transaction) and self.transaction.watch is not None:
            self.transaction.watch.loss = float(loss.detach() if isinstance(loss, Tensor) else loss)

    def begin_work(self) -> None:
        """This worker begins with its next step."""
        self._meter.begin_work()

    def read(self, table: LiveTable, rows: Tensor, together: bool) -> None:
        """A module is about to read rows of an exact table that has missed steps.

        Args:
            table: which.
            rows: row numbers, in any shape.
            together: all ranks are about to read it: bring the rows to the present. Collective then.

        Raises:
            ParameterError: not all take part, and some rows are behind.
        """
        with torch.no_grad():
            if not together:
                self.present.refuse(table, rows)
                return
            with self._or_broken("rows of an embedding could not be brought up to date"):
                self.present.refresh(table, rows)

    def flush(self) -> None:
        """Bring all rows of exact tables to the present, and pushes to rest. Collective."""
        if self.pushing is not None:
            with self._or_broken("pushes could not be brought to rest"):
                self.pushing.flush()
        if any(table.missed for table in self.tables):
            with torch.no_grad(), self._or_broken("rows of embeddings could not be brought up to date"):
                self.agree(self.present.changed(), ParameterError, "flush")
                self.quiesce()
                self.present.flush()

    @contextmanager
    def _or_broken(self, what: str) -> Iterator[None]:
        """A worker lost outside a step: nothing is torn, and these workers cannot go on."""
        self.transaction.refuse_if_broken()
        try:
            yield
        except CommunicationError as error:
            self.transaction.broken = type(error)(
                f"{what} because workers were lost, and these workers cannot go on. Restart with the workers that are "
                f"left, and load the last checkpoint. The cause: {error}"
            )
            raise self.transaction.broken from error

    def drain(self, hypers: Sequence[Hyper]) -> None:
        """Make the updates that are outstanding. Collective."""
        if isinstance(self.transaction, Transaction) and self.transaction.outstanding.parcels:
            self.quiesce()
            self.transaction.drain(hypers, self.plan.max_grad_norm)

    def quiesce(self) -> None:
        """Before a collective outside ``step``: if any rank has launched buckets, all launch the rest. Collective."""
        dirty = self.mesh.world.exchange(bytes([self.reducer.dirty]), "quiesce")
        if any(message[0] for message in dirty):
            self.reducer.depart()

    def agree(self, failure: AdameshError | None, kind: type[AdameshError], topic: str) -> None:
        """Raise, on every rank, if any has an error: its own, or as ``kind`` the first other's. Collective."""
        agree(self.mesh.world, failure, kind, topic)

    def first_says(self, content: Any) -> Any:
        """What the first worker gives, as JSON brings it, on every worker. Collective."""
        return first_says(self.mesh.world, content)

    def _specs(self, named: Sequence[tuple[str, nn.Parameter]], group: int, hypers: Sequence[Hyper]) -> list[ParamSpec]:
        group_of = {id(param): g for g in range(group, len(hypers)) for param in hypers[g]["params"]}
        return [
            self._spec(name, param, group_of[id(param)], str(hypers[group_of[id(param)]].get("sparse") or ""))
            for name, param in named
        ]

    def _spec(self, name: str, param: nn.Parameter, group: int, sparse: str) -> ParamSpec:
        if param.device != self.device:
            raise ParameterError(
                f"parameter {name!r} is on {param.device} and others are on {self.device}: one optimizer keeps its "
                "parameters on one device. Move the model to one device first"
            )
        if not (param.is_floating_point() or param.is_complex()):
            raise ParameterError(f"parameter {name!r} is of dtype {param.dtype}: only floating-point parameters train")
        if sparse:
            check_table(name, param, sparse, self.plan.sync)
        real = torch.view_as_real(param.detach()) if param.is_complex() else param
        return ParamSpec(
            name=name,
            shape=tuple(real.shape),
            dtype=str(real.dtype).removeprefix("torch."),
            device=param.device.type,
            group=group,
            itemsize=real.element_size(),
            frozen=not param.requires_grad,
            sparse=sparse,
        )

    def _compare(self, layout: Layout) -> None:
        """Raise on every rank if layouts or wires differ, naming the first parameter that does."""
        guard = "" if self.plan.guard is None else f", guard={self.plan.guard}"
        balance = ", balance=True" if self.plan.balance else ""
        wire = f"{self.plan.full_wire}, sync={self.plan.sync}{guard}{balance}".encode()
        digest = hashlib.sha256(layout.description + wire).digest()
        digests = self.mesh.world.exchange(digest, "add_param_group")
        if all(other == digests[0] for other in digests):
            return
        wires = self.mesh.world.exchange(wire, "wire")
        rank = next((r for r, other in enumerate(wires) if other != wires[0]), 0)
        if rank:
            raise ConfigurationError(
                f"worker {rank} was given {wires[rank].decode()} and worker 0 {wires[0].decode()}: they would "
                "not understand each other's bytes. Give every worker the same plan"
            )
        descriptions = self.mesh.world.exchange(layout.description, "add_param_group")
        rank = next(r for r, description in enumerate(descriptions) if description != descriptions[0])
        mismatch = first_mismatch(descriptions[rank], descriptions[0])
        raise LayoutError(
            f"worker {rank} and worker 0 have different parameters: {mismatch}. "
            "Every worker must build the same model and the same parameter groups in the same order"
        )


def _called(method: weakref.WeakMethod[Callable[..., Result]], *args: Any) -> Result:
    """What a method of an engine gives that is still there."""
    there = method()
    assert there is not None, "the optimizer is gone"
    return there(*args)


def without_params(hyper: Mapping[str, object]) -> dict[str, object]:
    """A parameter group without its parameters."""
    return {key: value for key, value in hyper.items() if key not in ("params", "param_names")}
