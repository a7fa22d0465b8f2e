"""The optimizer that users build: it puts the parts together and owns no mathematics."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn, overload

import torch
from torch import Tensor, nn

from adamesh.comm.base import Mesh
from adamesh.comm.company import Company
from adamesh.comm.process_group import process_mesh
from adamesh.comm.staged import mesh_reaching
from adamesh.engine.bucket import LiveSlot
from adamesh.engine.consensus import agreed
from adamesh.engine.engine import Engine, without_params
from adamesh.engine.fit import StateHead, check_fit, restore_group
from adamesh.engine.islands_state import own_runs_to_save, settle, sync_record
from adamesh.engine.kernels import compiled_codecs
from adamesh.engine.lineage import Lineage
from adamesh.engine.meter import StepStats
from adamesh.engine.part import part_of, taken_apart, warn_of_dropped
from adamesh.engine.residuals import fold
from adamesh.engine.runs import HeldRun, PieceSource, StateSource
from adamesh.engine.state_dict import (
    export_pieces,
    fetch,
    gather_full,
    refresh_values,
    restore,
    scatter_full,
)
from adamesh.engine.torch_format import GivenState, given_state, torch_state
from adamesh.errors import (
    CheckpointError,
    CommunicationError,
    ConfigurationError,
    IncompatiblePlan,
    ParameterError,
    StateLost,
)
from adamesh.plan import Plan
from adamesh.rules.base import Rule
from adamesh.rules.row_modes import row_rule

__all__ = ["MeshOptimizer", "ParamsT", "common_device"]

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class MeshOptimizer(torch.optim.Optimizer):
    """A ``torch.optim.Optimizer`` whose state is cut over the workers of a mesh.

    Building it is collective (every worker builds it, with the same parameters in the same order), and gives
    every worker the first worker's parameter values. ``p.grad`` is this worker's own gradient: the mean over
    workers exists only in slices, at their owners, inside ``step()``.

    Contiguous parameters move into the optimizer's buckets (``p.data`` becomes a view), which is what lets a fresh
    slice reach every replica without a further copy; the ``nn.Parameter`` objects stay the same.

    Args:
        params: parameters, ``(name, parameter)`` pairs, or groups, as for any torch optimizer. With names,
            checkpoints are keyed by them.
        defaults: the rule's hyper-parameters.
        rule: the update mathematics.
        plan: how workers share the work.

    Raises:
        ConfigurationError: a value is out of range, or several workers run without a process group.
        LayoutError: workers disagree about the parameters.
        ParameterError: a parameter is of a kind that cannot be trained here.
    """

    needs_closure = False
    """Whether ``step()`` evaluates the loss itself, perhaps several times."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any], rule: Rule, plan: Plan) -> None:
        self._engine: Engine | None = None
        self._loss_scale: float | None = None
        self._rule = rule
        self._plan = plan
        rule.check(defaults)
        self._readers: list[nn.Module] = []
        super().__init__(params, defaults)
        named = [pair for index in range(len(self.param_groups)) for pair in self._named(index)]
        device = common_device(named)
        self._codecs = compiled_codecs(plan, [param for _, param in named])
        self._device = device
        self._lineage: Lineage | None = None
        self._company = plan.mesh if isinstance(plan.mesh, Company) else None
        self._notes: tuple[bytes, ...] = ()
        if isinstance(plan.mesh, Company):
            gradients = plan.sync.at(0).gradients
            self._lineage = Lineage(plan.mesh, device, self._build, self.param_groups, gradients)
            self._engine = self._lineage.engine
        else:
            mesh = plan.mesh if isinstance(plan.mesh, Mesh) else process_mesh(plan.mesh, device, plan.timeout_s)
            self._engine = self._build(mesh_reaching(mesh, device))
        self._grad_norm = torch.zeros((), dtype=torch.float64, device="cpu")

    @overload
    def step(self, closure: None = ...) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step on the mean gradient of all workers. Collective.

        Under ``sync=Async(...)``: push this worker's own gradient and take the newest parameters; not collective.

        Args:
            closure: computes the loss again and calls backward; evaluated once.

        Raises:
            GradientError: a gradient was changed after it was sent, or is sparse in a group that is not (or dense in
                one that is). Nothing was changed.
            ParameterError: a parameter was changed on some workers only. Nothing was changed.
            StepOutOfSync: workers called ``step()`` unequally often, or one failed. Nothing was changed.
            PeerLost, CommunicationTimeout: a worker is gone. Nothing was changed.
            StateLost: the commit was cut short: load a checkpoint before going on.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
            self.tell_loss(loss)
        self._refuse_foreign_scaler()
        began = self.steps_made
        if self._company is not None:
            self._company.note(began, "step")
        try:
            outcome = self.engine.step(self.param_groups, self._loss_scale)
        except (CommunicationError, StateLost) as error:
            if self._lineage is None or not _by_loss(error):
                raise
            self._notes = self._lineage.transaction.opening.notes
            self.regroup(str(error))
            verdict = self._lineage.transaction.verdict
            if self.steps_made > began and verdict is not None:
                self._grad_norm = torch.tensor(verdict.norm, dtype=torch.float64, device="cpu")
            return loss
        self._grad_norm = torch.tensor(outcome.norm, dtype=torch.float64, device="cpu")
        if self._lineage is not None and self._company is not None:
            self._notes = self._lineage.transaction.opening.notes
            self._lineage.note_made()
            self._company.note(self.steps_made, "between steps")
            if self._lineage.transaction.restless:
                self._follow(self._lineage.change, "somebody comes or goes")
                self.engine.last_stats = replace(self.engine.last_stats, committed=outcome.committed)
        return loss

    def attach(self, note: bytes) -> None:
        """Tell the other workers something with the next step's header, which all that make the step have seen.

        Only among workers that come and go, and that step together: what a lost worker has brought into a step that
        was made is known to those who are left.

        Args:
            note: at most 65,535 bytes.
        """
        assert self._lineage is not None, "notes are for workers that come and go"
        self._lineage.transaction.opening.note = note

    @property
    def notes(self) -> tuple[bytes, ...]:
        """What all workers have attached to the last step, by the ranks that they had in it."""
        return self._notes

    @property
    def steps_made(self) -> int:
        """Steps made, skipped ones included: the same on all workers that agree in every step.

        Among workers that come and go (``Plan(mesh=company)``), ``step()`` may return with a step that has to be made
        again, by those that are left: then this number has not changed.
        """
        return self.engine.transaction.step_number

    def regroup(self, reason: str) -> None:
        """Go on with the workers that are left, and those that have come. Collective among them.

        ``step()`` does it by itself. Call it if another collective (`flush`, ``adamesh.save``, one of your own on
        `mesh`) has raised a `CommunicationError` among workers that come and go, and go on from `steps_made`.

        Args:
            reason: what this worker has seen.

        Raises:
            Expelled: the others have gone on without this worker, or it has left.
            QuorumLost: too few are left.
            StateLost: what the lost workers held is held by nobody else: load a checkpoint.
            ConfigurationError: these workers do not come and go.
        """
        if self._lineage is None:
            raise ConfigurationError(
                "regroup() needs workers that come and go, as in Plan(mesh=adamesh.elastic()): these do not"
            )
        self._follow(self._lineage.regroup, reason)

    def _follow(self, change: Callable[[str], None], reason: str) -> None:
        """Into the next epoch."""
        assert self._lineage is not None
        before = self.steps_made
        try:
            change(reason)
        finally:
            self._engine = self._lineage.engine
        if self.steps_made == before:
            super().zero_grad()  # they are of another cut of the batch
        self._engine.last_stats = self._engine.transaction.stats(committed=self.steps_made > before)

    def step_scaled(self, scale: float) -> bool:
        """`step` on gradients of a loss times ``scale``; skipped on all workers if any gradient is not finite.

        Returns:
            Whether the step was made; the same on every worker. ``adamesh.GradScaler`` calls this.
        """
        if self._plan.sync.at(0).delay:
            raise ConfigurationError(
                f"sync={self._plan.sync} under a gradient scaler: gradients of an old scale would be judged by the new "
                "one. Train in bfloat16, which needs no scaler, or use sync=EveryStep()"
            )
        self._loss_scale = scale
        try:
            self.step()  # by its public name: schedulers and step hooks are wrapped around that
        finally:
            self._loss_scale = None
        return self.stats().committed

    def tell_loss(self, loss: float | Tensor) -> None:
        """Tell the guard (``Plan(guard=...)``) this worker's loss before ``step()``; not collective.

        The mean over the workers that say something is judged with the step. ``step(closure)`` tells what the closure
        gave. Without a guard, and with ``sync=Stale(s)``, it does nothing.

        Args:
            loss: of the samples whose gradients the step takes.
        """
        self.engine.tell_loss(loss)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, also those already on their way. May be called at any time."""
        super().zero_grad(set_to_none)
        self.engine.reducer.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as with any torch optimizer. Collective once the optimizer is built.

        A group of embeddings with row-sparse gradients says ``sparse="lazy"``, ``"decayed"`` or ``"exact"``, and with
        ``"exact"`` names in ``modules`` who reads them; `adamesh.param_groups` makes such groups.
        """
        param_group = dict(param_group)
        if isinstance(self._plan.mesh, Company):
            self._refuse_among_company(param_group)
        modules = list(param_group.pop("modules", ()))
        if param_group.get("sparse") == "lazy":
            param_group.setdefault("weight_decay", 0.0)  # its rule has none, whatever the other groups' default
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._rule.check(group)
            if group.get("sparse") is None:
                self._plan.check_group(group)
            else:
                row_rule(group["sparse"], self._rule).check(group)
            if self._engine is None:
                self._readers += modules
            else:
                index = len(self.param_groups) - 1
                self._engine.extend(self._named(index), index, self.param_groups, modules)
        except BaseException:
            self.param_groups.pop()
            raise

    def flush(self) -> None:
        """Do what has been put off, so that parameters and state are the same everywhere. Collective.

        That is: bring all rows of embeddings in groups with ``sparse="exact"`` up to date, and let fragments that are
        on their way between islands arrive; under ``sync=Async(...)``, wait until all workers have called it, answer
        those that still train meanwhile, and make all replicas alike. Call it before evaluating, before changing
        parameters, before ``state_dict()`` and when training ends; ``adamesh.save`` and `full_state_dict` do. It
        does nothing, and costs nothing, where nothing was put off.

        Raises:
            ParameterError: such an embedding was changed from outside while some of its rows were behind; under
                ``Async``, any parameter was.
            PeerLost, CommunicationTimeout: a worker is gone.
        """
        self.engine.flush()
        settle(self.engine)

    def drain(self) -> None:
        """Make the updates that ``sync=Stale(s)`` has still to make, with the last gradients. Collective.

        Call it when training has ended. Whoever does not drops those gradients; ``adamesh.save`` saves them.

        Raises:
            PeerLost, CommunicationTimeout, StateLost: as `step` does.
        """
        self.engine.drain(self.param_groups)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Inside, parameters are the mean over islands; afterwards, each island's own again. Collective.

        To evaluate, or to hand the model on, while islands step alone (``EveryH``, ``DiLoCo``). It costs an exchange of
        parameters, and nothing where islands are alike, as they are right after an agreement. No step may be made
        inside.

        Raises:
            PeerLost, CommunicationTimeout: a worker is gone.
        """
        with agreed(self.engine):
            yield

    def serve(self) -> None:
        """Answer the other workers from now on, rather than from this worker's next ``step()`` on. Not collective.

        Only for ``sync=Async(...)``, and never needed: after a `flush` a slow worker keeps others waiting
        until it answers again. Elsewhere it does nothing.
        """
        if self.engine.pushing is not None:
            self.engine.pushing.serve()

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Accumulate the gradients of backwards inside this context; nothing is sent.

        The backward of the last micro-batch goes outside, and sends the sum. Parameters of lower precision
        accumulate in float32.
        """
        before, self.engine.reducer.syncing = self.engine.reducer.syncing, False
        try:
            yield
        finally:
            self.engine.reducer.syncing = before

    @property
    def grad_norm(self) -> Tensor:
        """Global norm of the last step's mean gradient, before clipping, unscaled: a float64 scalar.

        Under ``sync=Async(...)``, that of this worker's own gradient whose answers the step took.
        """
        return self._grad_norm

    @property
    def engine(self) -> Engine:
        """The parts behind this optimizer; not for users."""
        assert self._engine is not None, "the optimizer is still being built"
        return self._engine

    @property
    def mesh(self) -> Mesh:
        """Who takes part."""
        return self.engine.mesh

    @property
    def plan(self) -> Plan:
        """How workers share the work."""
        return self._plan

    def begin_work(self) -> None:
        """Tell, for ``Plan(balance=True)``, that work on the next step begins now; without, it begins where the last
        step ended, and evaluations in between count. ``adamesh.ElasticSampler`` calls it.
        """
        self.engine.begin_work()

    def stats(self) -> StepStats:
        """What the last step cost on this worker."""
        return self.engine.last_stats

    def state_dict(self) -> dict[str, Any]:
        """This worker's part of the state; no collective.

        ``state`` maps parameter names to ``step``, the rule's own numbers and, where this worker owns a part,
        ``start``, ``stop`` (elements of the flattened parameter) and the flat state tensors of that run.
        ``adamesh.save`` writes the parts of all workers; `full_state_dict` is torch's own format.
        ``residuals`` is what this worker's codecs have held back, where the plan has feedback; ``mirrors`` what it
        keeps of others' parts, where the plan has redundancy.
        """
        return part_of(self.engine, self.head())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave on this worker of an equally large mesh; no collective.

        Raises:
            CheckpointError: it is of another format, other parameters, or lacks elements this worker owns.
        """
        source, step = taken_apart(self.engine, state_dict)
        names = {name: name for name, _ in self.named_params()}
        self.check_fit(names, source.counts, state_dict["param_groups"])
        self.restore_from(source, state_dict["param_groups"], step)

    def refuse_if_broken(self) -> None:
        """Raise what an earlier ``step()`` left that makes the state unfit to be saved, if anything."""
        self.engine.transaction.refuse_if_broken()

    def named_params(self) -> list[tuple[str, nn.Parameter]]:
        """All parameters, by the optimizer's own names."""
        return [(slot.name, slot.param) for slot in self.engine.slots]

    def head(self) -> StateHead:
        """What the state is beside tensors; no collective."""
        slots = self.engine.slots
        return StateHead(
            self.engine.transaction.step_number,
            {slot.name: slot.steps for slot in slots},
            {slot.name: _numbers(slot) for slot in slots if slot.scalars},
            [self._group_record(index) for index in range(len(self.param_groups))],
            sync_record(self.engine),
        )

    def runs_to_save(self) -> list[HeldRun]:
        """This worker's share of the state; where islands are alike, the first one speaks for all. No collective."""
        if self.engine.transaction.agreement.state_apart:
            return own_runs_to_save(self.engine, export_pieces(self.engine))
        return export_pieces(self.engine) if self.engine.mesh.replicate.rank == 0 else []

    def residual_means(self) -> Mapping[str, Tensor]:
        """The mean of what the workers' codecs have held back, of the parts that this worker owns. Collective."""
        means = fold(self.engine)
        return means if self.engine.mesh.replicate.rank == 0 else {}

    def fetch(self, source: StateSource) -> PieceSource:
        """Read and check what this worker needs of a saved state; after it, restoring cannot fail.

        Warns:
            UserWarning: the state has residuals of codecs, and this plan has no feedback to send them with.
        """
        warn_of_dropped(self.engine, source, stacklevel=4)
        return fetch(self.engine, source)

    def check_fit(self, names: Mapping[str, str], saved: Iterable[str], groups: list[dict[str, Any]]) -> None:
        """Raise CheckpointError unless a saved state is of this optimizer's parameters and groups.

        Args:
            names: this optimizer's parameter names -> the saved state's.
            saved: the saved state's parameter names.
            groups: the saved parameter groups.
        """
        check_fit(self._names, names, saved, groups)

    def restore_from(self, source: StateSource, groups: list[dict[str, Any]], step: int) -> None:
        """Overwrite state and hyper-parameters; ``adamesh.load`` calls this. No collective."""
        held = fetch(self.engine, source)
        refresh_values(self.engine)
        # Before the state: which residuals are in use may depend on what the groups say.
        for group, saved in zip(self.param_groups, groups, strict=True):
            restore_group(group, saved)
        restore(self.engine, held, step)

    def full_state_dict(self) -> dict[str, Any]:
        """The whole state in the format of torch's optimizer of this name, on the first worker. Collective.

        Elsewhere it is empty.
        """
        self.flush()
        tensors = gather_full(self.engine)
        if self.engine.mesh.world.rank != 0:
            return {}
        by_name = {slot.name: slot for slot in self.engine.slots}
        return torch_state(self._rule, by_name, tensors, self.param_groups, self._names)

    def load_full_state_dict(self, state_dict: Mapping[str, Any] | None) -> None:
        """Take what torch's optimizer of this name gives as its ``state_dict()``. Collective.

        Args:
            state_dict: read on the first worker; the others may give None.

        Raises:
            CheckpointError: it is of another kind of optimizer, or of other parameters; on every worker.
        """
        problem, given = None, GivenState({}, {}, {}, [])
        if self.engine.mesh.world.rank == 0:
            every = [name for group in self._names for name in group]
            try:
                given = given_state(state_dict, self._rule, type(self).__name__, every, self.param_groups)
            except CheckpointError as error:
                problem = error
        self.engine.agree(problem, CheckpointError, "load state")
        keys = [(name, key) for name, tensors in given.tensors.items() for key in tensors]
        counts, numbers, keys, groups = self.engine.first_says((given.counts, given.numbers, keys, given.groups))
        self.engine.quiesce()
        source = scatter_full(self.engine, given.tensors, [(name, key) for name, key in keys], counts, numbers)
        self.restore_from(source, groups, max(counts.values(), default=0))

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a MeshOptimizer cannot be pickled or copied: it holds connections to other workers. Save it with "
            "adamesh.save(path, model, optimizer)"
        )

    # -- inside ----------------------------------------------------------------------------------------------

    def _build(self, mesh: Mesh, epoch: int = 0, from_first: bool = True) -> Engine:
        """An engine of all groups. Collective."""
        clock, company = time.perf_counter, self._company
        engine = Engine(self._rule, self._plan, mesh, self._device, clock, self._codecs, epoch, company)
        named = [pair for index in range(len(self.param_groups)) for pair in self._named(index)]
        engine.extend(named, 0, self.param_groups, self._readers, from_first=from_first)
        return engine

    def _refuse_among_company(self, group: Mapping[str, Any]) -> None:
        if group.get("sparse") is not None:
            raise IncompatiblePlan(
                f"a group with sparse={group['sparse']!r} among workers that come and go: rows of a table are kept by "
                "one worker each, and would be lost with it. Build the embedding with sparse=False, or start without "
                "elastic workers and rely on checkpoints"
            )
        if self._engine is not None:
            raise ConfigurationError(
                "add_param_group() among workers that come and go: whoever comes later would not know of it. Give all "
                "groups when the optimizer is built"
            )

    def _refuse_foreign_scaler(self) -> None:
        # Left here by torch's scaler, which will not come to removing them.
        found_inf, _ = vars(self).pop("found_inf", None), vars(self).pop("grad_scale", None)
        if found_inf is not None:
            raise ConfigurationError(
                "torch.amp.GradScaler decides on each worker alone whether to skip a step, so scales and parameters "
                "would part. Use adamesh.GradScaler(...) in its place; scale, step and update are called alike"
            )

    # torch's scaler sets grad_scale and found_inf on optimizers that say this, and unscales no gradients itself.
    _step_supports_amp_scaling = True

    def _named(self, index: int) -> list[tuple[str, nn.Parameter]]:
        group = self.param_groups[index]
        names = group.get("param_names") or [f"{index}.{i}" for i in range(len(group["params"]))]
        return list(zip(names, group["params"], strict=True))

    @property
    def _names(self) -> list[list[str]]:
        """The parameters' names, by group."""
        return [[name for name, _ in self._named(index)] for index in range(len(self.param_groups))]

    def _group_record(self, index: int) -> dict[str, Any]:
        return {**without_params(self.param_groups[index]), "params": self._names[index]}


def common_device(named: Sequence[tuple[str, nn.Parameter]]) -> torch.device:
    """Where the parameters are; raises ParameterError for those that no optimizer here can train."""
    for name, param in named:
        if _is_dtensor(param):
            raise ParameterError(
                f"parameter {name!r} is a DTensor, already sharded by FSDP2 or tensor parallelism: adamesh shards "
                "plain parameters. Use torch.optim.AdamW with fully_shard, or adamesh without it"
            )
        if param.is_meta:
            raise ParameterError(
                f"parameter {name!r} is on the meta device, without values: materialise the model first"
            )
    return named[0][1].device if named else torch.device("cpu")


def _is_dtensor(param: Tensor) -> bool:
    # Importing DTensor costs most of a second; whoever has one has imported it.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(param, module.DTensor)


def _by_loss(error: BaseException) -> bool:
    """Whether workers were lost, and not this one's own memory, say."""
    return isinstance(error, CommunicationError) or isinstance(error.__cause__, CommunicationError)


def _numbers(slot: LiveSlot) -> dict[str, float]:
    return {key: value.item() for key, value in slot.scalars.items()}
