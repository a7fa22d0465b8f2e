"""The optimizer that users build: it puts the parts together and owns no mathematics."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, overload

import torch
from torch import Tensor, nn

from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.engine.engine import Engine, without_params
from adamesh.engine.meter import StepStats
from adamesh.engine.state_dict import (
    HeldRun,
    PieceSource,
    StateSource,
    export_pieces,
    export_residuals,
    gather_full,
    refresh_values,
    restore,
    scatter_full,
)
from adamesh.errors import CheckpointError, ConfigurationError, ParameterError
from adamesh.plan import Plan
from adamesh.rules.adam import Adam as AdamRule
from adamesh.rules.base import Rule

__all__ = ["Adam", "AdamW", "MeshOptimizer"]

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]

_FORMAT = 1


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

    def __init__(self, params: ParamsT, defaults: dict[str, Any], rule: Rule, plan: Plan) -> None:
        self._engine: Engine | None = None
        self._loss_scale: float | None = None
        self._rule = rule
        self._plan = plan
        rule.check(defaults)
        super().__init__(params, defaults)
        named = [pair for index in range(len(self.param_groups)) for pair in self._named(index)]
        device = _common_device(named)
        mesh = plan.mesh if isinstance(plan.mesh, Mesh) else process_mesh(plan.mesh, device, plan.timeout_s)
        engine = Engine(rule, plan, mesh, device, time.perf_counter)
        engine.extend(named, 0, self.param_groups)
        self._engine = engine
        self._grad_norm = torch.zeros((), dtype=torch.float64)

    @overload
    def step(self, closure: None = ...) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one step on the mean gradient of all workers. Collective.

        Args:
            closure: computes the loss again and calls backward; evaluated once.

        Raises:
            GradientError: a gradient was changed after it was sent, or is sparse. Nothing was changed.
            ParameterError: a parameter was changed on some workers only. Nothing was changed.
            StepOutOfSync: workers called ``step()`` unequally often, or one failed. Nothing was changed.
            PeerLost, CommunicationTimeout: a worker is gone. Nothing was changed.
            StateLost: the commit was cut short: load a checkpoint before going on.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._refuse_foreign_scaler()
        outcome = self.engine.step(self.param_groups, self._loss_scale)
        self._grad_norm = torch.tensor(outcome.norm, dtype=torch.float64)
        return loss

    def step_scaled(self, scale: float) -> bool:
        """`step` on gradients of a loss times ``scale``; skipped on all workers if any gradient is not finite.

        Returns:
            Whether the step was made; the same on every worker. ``adamesh.GradScaler`` calls this.
        """
        self._loss_scale = scale
        try:
            self.step()  # by its public name: schedulers and step hooks are wrapped around that
        finally:
            self._loss_scale = None
        return self.stats().committed

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, also those already on their way. May be called at any time."""
        super().zero_grad(set_to_none)
        self.engine.reducer.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as with any torch optimizer. Collective once the optimizer is built."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._rule.check(group)
            self._plan.check_group(group)
            if self._engine is not None:
                self._engine.extend(
                    self._named(len(self.param_groups) - 1), len(self.param_groups) - 1, self.param_groups
                )
        except BaseException:
            self.param_groups.pop()
            raise

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
        """Global norm of the last step's mean gradient, before clipping, unscaled: a float64 scalar."""
        return self._grad_norm

    @property
    def engine(self) -> Engine:
        """The parts behind this optimizer; not for users."""
        assert self._engine is not None, "the optimizer is still being built"
        return self._engine

    def stats(self) -> StepStats:
        """What the last step cost on this worker."""
        return self.engine.last_stats

    def state_dict(self) -> dict[str, Any]:
        """This worker's part of the state; no collective.

        ``state`` maps parameter names to ``step`` and, where this worker owns a part, ``start``, ``stop``
        (elements of the flattened parameter) and the flat state tensors of that run. ``adamesh.save`` writes the
        parts of all workers; :meth:`full_state_dict` is torch's own format. ``residuals`` is what this worker's codecs
        have held back, where the plan has feedback.
        """
        state: dict[str, dict[str, Any]] = {
            slot.name: {"step": slot.steps, "shape": list(slot.param.shape)} for slot in self.engine.slots
        }
        for run in export_pieces(self.engine):
            state[run.name] |= {"start": run.start, "stop": run.stop, **run.tensors}
        residuals = {
            f"{key}/{run.name}": {"name": run.name, "start": run.start, "stop": run.stop, key: tensor}
            for run in export_residuals(self.engine)
            for key, tensor in run.tensors.items()
        }
        return {
            "adamesh": {"format": _FORMAT, "step": self.engine.transaction.step_number},
            "state": state,
            **({"residuals": residuals} if residuals else {}),
            "param_groups": [self._group_record(index) for index in range(len(self.param_groups))],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave on this worker of an equally large mesh; no collective.

        Raises:
            CheckpointError: it is of another format, other parameters, or lacks elements this worker owns.
        """
        head = state_dict.get("adamesh")
        if not isinstance(head, Mapping) or head.get("format") != _FORMAT:
            raise CheckpointError(
                f"this state dict holds {sorted(map(str, state_dict))}, not a part that adamesh's state_dict() gave. "
                "Load torch.optim's format with load_full_state_dict(), a checkpoint folder with adamesh.load()"
            )
        counts = {name: int(entry["step"]) for name, entry in state_dict["state"].items()}
        entries = [{"name": name, **entry} for name, entry in state_dict["state"].items() if "start" in entry]
        runs = [
            HeldRun(e["name"], e["start"], e["stop"], {k: v for k, v in e.items() if isinstance(v, Tensor)})
            for e in [*entries, *state_dict.get("residuals", {}).values()]
        ]
        names = {slot.name: slot.name for slot in self.engine.slots}
        for slot in self.engine.slots:
            shape = state_dict["state"].get(slot.name, {}).get("shape", list(slot.param.shape))
            if shape != list(slot.param.shape):
                raise CheckpointError(
                    f"the saved state is of a parameter {slot.name!r} of shape {shape}, this optimizer's is "
                    f"{list(slot.param.shape)}: build the same model first"
                )
        self.check_fit(names, counts, state_dict["param_groups"])
        self.restore_from(PieceSource(runs, counts), state_dict["param_groups"], int(head["step"]))

    def check_fit(self, names: Mapping[str, str], saved: Iterable[str], groups: list[dict[str, Any]]) -> None:
        """Raise CheckpointError unless a saved state is of this optimizer's parameters and groups.

        Args:
            names: this optimizer's parameter names -> the saved state's.
            saved: the saved state's parameter names.
            groups: the saved parameter groups.
        """
        missing, extra = sorted(set(names.values()) - set(saved)), sorted(set(saved) - set(names.values()))
        if missing or extra:
            raise CheckpointError(
                f"the saved state is of other parameters: {len(missing)} of this optimizer's are not in it "
                f"({missing[:3]}), {len(extra)} of its own are unknown here ({extra[:3]}). Build the same model first"
            )
        ours = [[names[name] for name, _ in self._named(index)] for index in range(len(self.param_groups))]
        theirs = [list(group["params"]) for group in groups]
        if ours != theirs:
            raise CheckpointError(
                f"the saved state has parameter groups of {[len(g) for g in theirs]} parameters and this optimizer of "
                f"{[len(g) for g in ours]}, or the same in another order: build it with the same groups first"
            )

    def restore_from(self, source: StateSource, groups: list[dict[str, Any]], step: int) -> None:
        """Overwrite state and hyper-parameters; ``adamesh.load`` calls this. No collective."""
        refresh_values(self.engine)
        restore(self.engine, source, step)
        for group, saved in zip(self.param_groups, groups, strict=True):
            _restore_group(group, saved)

    def full_state_dict(self) -> dict[str, Any]:
        """The whole state in ``torch.optim.AdamW``'s own format, on the first worker; empty elsewhere. Collective."""
        tensors = gather_full(self.engine)
        if self.engine.mesh.world.rank != 0:
            return {}
        by_name = {slot.name: slot for slot in self.engine.slots}
        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        position = 0
        for index, group in enumerate(self.param_groups):
            names = [name for name, _ in self._named(index)]
            for number, name in enumerate(names, start=position):
                if by_name[name].steps:
                    state[number] = {"step": torch.tensor(float(by_name[name].steps)), **tensors[name]}
            record = {
                **_TORCH_GROUP,
                **without_params(group),
                "params": list(range(position, position + len(names))),
            }
            groups.append({**record, "param_names": names} if "param_names" in group else record)
            position += len(names)
        return {"state": state, "param_groups": groups}

    def load_full_state_dict(self, state_dict: Mapping[str, Any] | None) -> None:
        """Take a state in torch's format, as of ``torch.optim.AdamW.state_dict()``. Collective.

        Args:
            state_dict: read on the first worker; the others may give None.
        """
        named = [pair for index in range(len(self.param_groups)) for pair in self._named(index)]
        problem = None
        given: dict[str, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        if self.engine.mesh.world.rank == 0:
            problem = _full_problem(state_dict, [list(g["params"]) for g in self.param_groups])
            if problem is None:
                assert state_dict is not None
                given = {named[number][0]: dict(entry) for number, entry in state_dict["state"].items()}
                groups = [without_params(group) for group in state_dict["param_groups"]]
        self.engine.agree(problem, CheckpointError, "load state")
        counts, keys, groups = self.engine.first_says(
            (
                {name: int(entry["step"]) for name, entry in given.items()},
                [(n, k) for n, e in given.items() for k, v in e.items() if k != "step" and isinstance(v, Tensor)],
                [_jsonable(group) for group in groups],
            )
        )
        self.engine.quiesce()
        source = scatter_full(self.engine, given, [(name, key) for name, key in keys], counts)
        self.restore_from(source, groups, max(counts.values(), default=0))

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "a MeshOptimizer cannot be pickled or copied: it holds connections to other workers. Save it with "
            "adamesh.save(path, model, optimizer)"
        )

    # -- inside ----------------------------------------------------------------------------------------------

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

    def _group_record(self, index: int) -> dict[str, Any]:
        return {
            **without_params(self.param_groups[index]),
            "params": [name for name, _ in self._named(index)],
        }


class AdamW(MeshOptimizer):
    """AdamW (Loshchilov & Hutter 2019) on a mesh; ``torch.optim.AdamW``'s arguments, and a plan.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> optimizer = AdamW(model.parameters(), lr=3e-4)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"amsgrad": amsgrad, "maximize": maximize}
        super().__init__(params, defaults, AdamRule(decoupled=True), plan or Plan())


class Adam(MeshOptimizer):
    """Adam (Kingma & Ba 2015) on a mesh; ``torch.optim.Adam``'s arguments, and a plan.

    Weight decay is coupled: it is added to the gradient, once, at the owner of a slice.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"amsgrad": amsgrad, "maximize": maximize}
        super().__init__(params, defaults, AdamRule(decoupled=False), plan or Plan())


_TORCH_GROUP = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
"""What torch's AdamW keeps in a group beside the hyper-parameters."""


def _common_device(named: list[tuple[str, nn.Parameter]]) -> torch.device:
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


def _restore_group(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    for key, value in saved.items():
        if key in ("params", "param_names"):
            continue
        if key in group and isinstance(group[key], Tensor):
            group[key].fill_(float(value))
        elif isinstance(value, list):
            group[key] = tuple(value)
        else:
            group[key] = value


def _jsonable(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items()}


def _full_problem(state_dict: Mapping[str, Any] | None, groups: list[list[Any]]) -> CheckpointError | None:
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        return CheckpointError(
            "load_full_state_dict() takes, on the first worker, what torch.optim.AdamW.state_dict() gives"
        )
    sizes = [len(group["params"]) for group in state_dict["param_groups"]]
    ours = [len(group) for group in groups]
    if sizes != ours:
        return CheckpointError(
            f"the state dict has parameter groups of {sizes} parameters and this optimizer of {ours}: "
            "build it with the same groups first"
        )
    params = [param for group in groups for param in group]
    for number, entry in state_dict["state"].items():
        if number not in range(len(params)) or "step" not in entry:
            return CheckpointError(
                f"the state of parameter {number!r} holds {sorted(entry)} and no 'step', or is one too many: it is not "
                "of torch.optim.Adam or AdamW over these parameters"
            )
        for key, tensor in entry.items():
            if key != "step" and isinstance(tensor, Tensor) and tensor.shape != params[number].shape:
                return CheckpointError(
                    f"{key} of parameter {number} has shape {tuple(tensor.shape)}, the parameter "
                    f"{tuple(params[number].shape)}: build the same model first"
                )
    return None
