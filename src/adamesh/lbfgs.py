"""L-BFGS over workers: torch's own, on the mean of the workers' losses and gradients."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from adamesh.comm.base import Mesh
from adamesh.comm.company import Company
from adamesh.comm.process_group import process_mesh
from adamesh.comm.staged import mesh_reaching
from adamesh.engine.engine import without_params
from adamesh.engine.evaluation import Evaluation
from adamesh.engine.fit import StateHead, check_fit, restore_group
from adamesh.engine.flat_state import FlatState
from adamesh.engine.meter import StepStats
from adamesh.engine.runs import HeldRun, PieceSource, StateSource
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.optimizer import ParamsT, common_device
from adamesh.plan import Plan

__all__ = ["LBFGS"]

_IGNORED = ("mesh", "timeout_s", "overlap", "bucket_mb")
"""Settings of a plan that L-BFGS uses, or that change nothing but the time a step takes."""


class LBFGS(torch.optim.LBFGS):
    """L-BFGS (Liu & Nocedal 1989) through ``torch.optim.LBFGS``, whose closure is averaged over the workers.

    Every evaluation is the mean of all workers' losses and gradients, summed in rank order, so that every worker
    takes the same line search and all stay the same to the bit. The state is not cut: each worker holds all of it.
    Building it is collective, and gives every worker the first worker's parameters.

    Args:
        params: parameters or ``(name, parameter)`` pairs, in one group.
        lr: learning rate; with a line search, the length that it tries first.
        max_iter: iterations in a step.
        max_eval: evaluations in a step; None: 1.25 times ``max_iter``.
        tolerance_grad: a step ends when no element of the gradient is larger.
        tolerance_change: a step ends when parameters or loss change by less.
        history_size: how many past steps approximate the curvature.
        line_search_fn: "strong_wolfe" or None.
        plan: who takes part; L-BFGS exchanges exact gradients and agrees at every evaluation.

    Raises:
        ConfigurationError: a value is out of range, or there are several groups.
        IncompatiblePlan: the plan says more than who takes part.
        LayoutError: workers disagree about the parameters.
    """

    needs_closure = True
    """Whether ``step()`` evaluates the loss itself, perhaps several times."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        plan: Plan | None = None,
    ) -> None:
        self.plan = plan = plan or Plan()
        _check_plan(plan)
        self._built = False
        numbers = {"max_iter": max_iter, "max_eval": max_eval, "history_size": history_size}
        _check(numbers, tolerance_grad, tolerance_change, line_search_fn)
        try:
            super().__init__(
                params, lr, max_iter, max_eval, tolerance_grad, tolerance_change, history_size, line_search_fn
            )
        except ValueError as error:
            raise ConfigurationError(f"adamesh.LBFGS: {error}; give one group, and an lr of at least 0") from error
        self._built = True
        named = self.named_params()
        device = common_device(named)
        assert not isinstance(plan.mesh, Company)
        mesh = plan.mesh if isinstance(plan.mesh, Mesh) else process_mesh(plan.mesh, device, plan.timeout_s)
        self._mesh = mesh_reaching(mesh, device)
        self._steps = 0
        self._evaluation = Evaluation(self._mesh.world, named, device, time.perf_counter)
        self._evaluation.meet()
        self._stats = self._counted()

    def step(self, closure: Callable[[], float] | None = None) -> float:  # type: ignore[override]
        """Make one step of up to ``max_iter`` iterations. Collective.

        Args:
            closure: clears the gradients, computes this worker's loss, calls backward and returns the loss. It is
                evaluated several times, equally often on every worker, and should give the same for the same
                parameters.

        Returns:
            The mean of the workers' losses before the step.

        Raises:
            StepOutOfSync: the closure failed on another worker. Nothing was changed.
            ParameterError: workers have different parameters, or computed different ones. Nothing was changed.
            PeerLost, CommunicationTimeout: a worker is gone. Nothing was changed.
        """
        if closure is None:
            raise ConfigurationError(
                "LBFGS.step() evaluates the loss several times: give it a closure that clears the gradients, computes "
                "the loss, calls backward and returns the loss"
            )
        before = self._kept()
        self._evaluation.begin(_settings(self.param_groups[0]))
        try:
            loss = float(super().step(lambda: self._evaluation.run(closure)))  # type: ignore[no-untyped-call]
            self._evaluation.end()
        except BaseException:
            self._put_back(before)
            raise
        self._steps += 1
        self._stats = self._counted()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once it is built: L-BFGS has one group."""
        if self._built:
            raise ConfigurationError("LBFGS takes one parameter group: give it all parameters when it is built")
        super().add_param_group(param_group)

    def drain(self) -> None:
        """Nothing is ever outstanding here."""

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """As the other optimizers' ``agreed``: nothing to do, as workers never differ."""
        yield

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """As the other optimizers' ``no_sync``: nothing to do, as gradients are sent when the closure has ended."""
        yield

    @property
    def grad_norm(self) -> Tensor:
        """Global norm of the mean gradient before the last step: a float64 scalar."""
        return torch.tensor(self._evaluation.grad_norm, dtype=torch.float64, device="cpu")

    @property
    def steps_made(self) -> int:
        """As the other optimizers' ``steps_made``."""
        return self._steps

    def begin_work(self) -> None:
        """Nothing: its plans do not balance."""

    def stats(self) -> StepStats:
        """What the last step cost on this worker."""
        return self._stats

    # -- saving and loading ----------------------------------------------------------------------------------

    @property
    def mesh(self) -> Mesh:
        """Who takes part."""
        return self._mesh

    def refuse_if_broken(self) -> None:
        """Nothing: a step that fails leaves the state before it."""

    def flush(self) -> None:
        """Nothing is ever put off here."""

    def named_params(self) -> list[tuple[str, nn.Parameter]]:
        """All parameters, by name where the caller gave names, else by number."""
        group = self.param_groups[0]
        names = group.get("param_names") or [f"0.{i}" for i in range(len(group["params"]))]
        return list(zip(names, group["params"], strict=True))

    def head(self) -> StateHead:
        """What the state is beside vectors; no collective."""
        names = [name for name, _ in self.named_params()]
        group = {**without_params(self.param_groups[0]), "params": names}
        scalars = self._flat_state().scalars
        return StateHead(
            self._steps, dict.fromkeys(names, self._steps), {names[0]: scalars} if scalars else {}, [group]
        )

    def runs_to_save(self) -> list[HeldRun]:
        """This worker's cut of every vector of the state. No collective."""
        world = self._mesh.world
        return self._flat_state().runs(self.named_params(), world.rank, world.size)

    def residual_means(self) -> Mapping[str, Tensor]:
        """Nothing: gradients are exact, and nothing is held back."""
        return {}

    def check_fit(self, names: Mapping[str, str], saved: Iterable[str], groups: list[dict[str, Any]]) -> None:
        """Raise CheckpointError unless a saved state is of this optimizer's parameters."""
        check_fit([[name for name, _ in self.named_params()]], names, saved, groups)

    def fetch(self, source: StateSource) -> PieceSource:
        """Read and check a saved state, whole; after it, restoring cannot fail."""
        return FlatState.fetch(source, self.named_params())

    def restore_from(self, source: StateSource, groups: list[dict[str, Any]], step: int) -> None:
        """Overwrite state and hyper-parameters; ``adamesh.load`` calls this. No collective."""
        named = self.named_params()
        restored = FlatState.restored(source, named)
        self.state.clear()
        if restored is not None:
            self.state[named[0][1]] = restored.torchs()
        restore_group(self.param_groups[0], groups[0])
        self._steps = step

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "an LBFGS cannot be pickled or copied: it holds connections to other workers. Save it with "
            "adamesh.save(path, model, optimizer)"
        )

    # -- inside ----------------------------------------------------------------------------------------------

    def _flat_state(self) -> FlatState:
        return FlatState.of(self.state.get(self.param_groups[0]["params"][0], {}))

    def _kept(self) -> tuple[list[Tensor], dict[str, Any]]:
        """Parameters and state, so that a step that fails can be undone."""
        params = self.param_groups[0]["params"]
        return [param.detach().clone() for param in params], self._flat_state().torchs()

    def _put_back(self, kept: tuple[list[Tensor], dict[str, Any]]) -> None:
        values, state = kept
        params = self.param_groups[0]["params"]
        with torch.no_grad():
            for param, value in zip(params, values, strict=True):
                param.copy_(value)
        self.state.clear()
        if state:
            self.state[params[0]] = state

    def _counted(self) -> StepStats:
        meter, evaluation = self._evaluation.meter, self._evaluation
        return StepStats(
            step=self._steps,
            committed=self._steps > 0,
            world_size=self._mesh.world.size,
            bytes_up=meter.bytes_up,
            bytes_down=meter.bytes_down,
            bytes_control=meter.bytes_control,
            comm_exposed_s=meter.exposed_s,
            state_bytes=self._flat_state().num_bytes,
            buffer_bytes=evaluation.buffer_bytes,
            buckets_resent=0,
        )


def _settings(group: Mapping[str, Any]) -> str:
    plain = {key: v.item() if isinstance(v, Tensor) else v for key, v in without_params(group).items()}
    return repr(sorted(plain.items()))


def _check(
    counts: Mapping[str, int | None], tolerance_grad: float, tolerance_change: float, line_search_fn: str | None
) -> None:
    for name, count in counts.items():
        if count is not None and not count >= 1:
            raise ConfigurationError(f"{name}={count} is out of range: it must be at least 1")
    for name, value in (("tolerance_grad", tolerance_grad), ("tolerance_change", tolerance_change)):
        if not value >= 0.0:
            raise ConfigurationError(f"{name}={value} is out of range: it must be at least 0")
    if line_search_fn not in (None, "strong_wolfe"):
        raise ConfigurationError(f"line_search_fn={line_search_fn!r}: there is 'strong_wolfe', or None for none")


def _check_plan(plan: Plan) -> None:
    standard = Plan()
    if isinstance(plan.mesh, Company):
        raise IncompatiblePlan(
            "mesh=a company with LBFGS: one of its steps evaluates many times, and a worker that is lost in between "
            "would take its history along. Start it with a fixed number of workers, or use adamesh.AdamW"
        )
    for field in dataclasses.fields(plan):
        value = getattr(plan, field.name)
        if field.name not in _IGNORED and value != getattr(standard, field.name):
            raise IncompatiblePlan(
                f"{field.name}={value!r} with LBFGS: its line search needs the exact mean gradient of all workers at "
                f"every evaluation. Leave {field.name} out of the plan, or use adamesh.AdamW"
            )
