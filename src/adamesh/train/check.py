"""Is a model trained the same as with torch's optimizer? The workers train, and the first one compares every step.

Three things are compared: each worker's gradient with the one that torch computes in a single process for the
same samples, the parameters with torch.optim's, and the workers' parameters with each other, bit by bit. The
check ends at the first step that fails, where the culprit still stands alone.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import adamesh
from adamesh.data.seeds import derived_seed
from adamesh.errors import Diverged
from adamesh.tasks.catalog import find_task
from adamesh.train.comparison import CheckReport, Comparison
from adamesh.train.config import load_config, resolved
from adamesh.train.names import build_optimizer, build_plan
from adamesh.train.reference import Reference
from adamesh.train.rules import BY_ROWS
from adamesh.train.run import Run
from adamesh.train.settings import RunConfig, ScheduleSettings
from adamesh.train.step import Stepper
from adamesh.train.worker import choose_device
from adamesh.train.workers import GroupWorkers

__all__ = ["REPORT", "check_worker", "main"]

REPORT = "check.json"
"""The report's name in the folder of a check."""

_MOST_DRIFT = 1e-2
"""Of a parameter's largest value."""

Tamper = Callable[[int, int, nn.Module], None]


def check_worker(folder: Path, tamper: Tamper | None = None) -> None:
    """Take part in the check whose ``config.toml`` is in ``folder``; the first worker leaves the report there.

    Args:
        folder: of the check.
        tamper: called with rank, step (from 0) and model before each step, to break it on purpose: it may
            hook into a parameter's gradient, not touch ``grad``, which belongs to the optimizer.
    """
    config = load_config(folder / "config.toml")
    task = find_task(config.task)
    config = _comparable(resolved(config, task))
    device = choose_device(config)
    splits = task.load_data(config.data, config.seed)
    workers = GroupWorkers.join(device, config.plan.timeout_s, config.backend)
    run = Run(config, task, splits, folder, workers, device)
    report = _Check(run).compare(tamper)
    if report is not None:
        report.save(folder / REPORT)
    workers.part()


def main(arguments: Sequence[str]) -> int:
    """The process's entry: the folder of a check."""
    check_worker(Path(arguments[0]))
    return 0


class _Check:
    """One worker's part of a check."""

    def __init__(self, run: Run) -> None:
        self._run = run
        torch.manual_seed(derived_seed("model", run.config.seed))
        self._model = run.task.build_model().to(run.device).train()
        adamesh.broadcast_module(self._model)
        self._parameters = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        plan = build_plan(run.config.plan, run.device, run.workers.size, run.config.optim.rule)
        self._optimizer = build_optimizer(run.config.optim, self._model, plan)
        self._optimizer.register_step_pre_hook(self._keep_gradients)
        self._stepper = Stepper(run, self._model, self._optimizer)
        self._gradients: list[Tensor] = []
        self._group = dist.new_group(backend="gloo") if run.workers.size > 1 else None

    def compare(self, tamper: Tamper | None) -> CheckReport | None:
        """Train and compare; the report is for the first worker. Collective."""
        run = self._run
        first = run.workers.is_first
        judge = _Judge(run, self._parameters, self._optimizer.needs_closure) if first else None
        step, failed = 0, 0
        while step < run.total_steps() and not failed:
            if tamper is not None:
                tamper(run.workers.rank, step, self._model)
            self._stepper.take(step)
            self._optimizer.flush()
            step += 1
            gradients = [self._gathered(gradient) for gradient in self._gradients]
            digests = self._gathered(torch.tensor([_digest(p) for p in self._parameters.values()]))
            if judge is not None:
                failed = int(judge.fails(step, gradients, digests))
            (failed,) = run.workers.from_first([failed])
        if judge is None:
            return None
        found = [comparison.report() for comparison in judge.comparisons.values()]
        task, rule = run.task.name, run.config.optim.rule
        return CheckReport(task, rule, run.workers.size, run.device.type, step, found)

    def _keep_gradients(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """What ``step()`` is about to average: after it, ``grad`` is gone."""
        parameters = self._parameters.values()
        self._gradients = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense().clone() for p in parameters]

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        """Every worker's, by rank, on the first worker; empty elsewhere."""
        mine = tensor.detach().cpu()
        if self._group is None:
            return [mine]
        everybody = [torch.empty_like(mine) for _ in range(self._run.workers.size)]
        dist.gather(mine, everybody if self._run.workers.is_first else None, dst=0, group=self._group)
        return everybody if self._run.workers.is_first else []


class _Judge:
    """The first worker's references, and how far everybody was from them."""

    def __init__(self, run: Run, parameters: dict[str, nn.Parameter], by_closure: bool) -> None:
        self._by_closure = by_closure  # several gradients a step, of which none can be told from outside
        self._parameters = parameters
        self._reference, self._noisy = Reference(run, noise=0), Reference(run, noise=1)
        self.comparisons = {name: Comparison(name, p) for name, p in parameters.items()}

    def fails(self, step: int, gradients: list[list[Tensor]], digests: list[Tensor]) -> bool:
        """Compare step ``step``, from 1: gradients per parameter and rank, digests per rank."""
        if self._by_closure:
            self._reference.step_by_closure(step - 1)
            self._noisy.step_by_closure(step - 1)
            self._require_comparable(step)
        else:
            self._step_on_mean(step, gradients)
        for index, (name, comparison) in enumerate(self.comparisons.items()):
            parameter = self._parameters[name]
            values = (parameter, self._reference.parameters[name], self._noisy.parameters[name])
            comparison.values(step, *(value.detach().cpu() for value in values))
            comparison.copies([int(by_rank[index]) for by_rank in digests])
        return any(comparison.report().complaints() for comparison in self.comparisons.values())

    def _require_comparable(self, step: int) -> None:
        """L-BFGS that diverges lets any rounding grow without bound: then everything would be within tolerance."""
        for name, right in self._reference.parameters.items():
            apart = float((right.detach() - self._noisy.parameters[name].detach()).abs().max()) if right.numel() else 0
            largest = float(right.detach().abs().max()) if right.numel() else 0
            if not apart <= _MOST_DRIFT * largest:
                raise Diverged(
                    f"in step {step} rounding alone moves {name}, of {largest:.1e} at the most, by {apart:.1e} in "
                    "torch's own run: there is nothing to compare with. Compare fewer steps, set optim.line_search_fn "
                    'to "strong_wolfe", or lower optim.lr'
                )

    def _step_on_mean(self, step: int, gradients: list[list[Tensor]]) -> None:
        """Both references take a step, after every worker's gradient has been compared with theirs."""
        expected, noisy = self._reference.gradients(step - 1), self._noisy.gradients(step - 1)
        self._reference.step(expected)
        self._noisy.step(noisy)
        for index, (name, comparison) in enumerate(self.comparisons.items()):
            right, other = ([_dense(g[name], self._parameters[name]) for g in each] for each in (expected, noisy))
            comparison.gradients(step, gradients[index], right, other)


def _comparable(config: RunConfig) -> RunConfig:
    """What a single process can repeat sample by sample, at a learning rate that shows differences at once.

    And with dense Adam: embeddings that have row-sparse gradients are trained exactly.
    """
    constant = ScheduleSettings(kind="constant", warmup_steps=0)
    optim = replace(config.optim, sparse="exact") if config.optim.rule in BY_ROWS else config.optim
    plan = replace(config.plan, balance=False, most_samples=None)  # one process cannot know how fast others are
    return replace(config, schedule=constant, optim=optim, plan=plan, micro_batches=1, precision="fp32")


def _dense(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros(parameter.shape, dtype=parameter.dtype) if gradient is None else gradient.cpu()


def _digest(parameter: Tensor) -> int:
    """64 bits of a hash of the parameter's bits."""
    data = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
