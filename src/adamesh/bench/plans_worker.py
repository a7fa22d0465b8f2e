"""One worker of ``adamesh bench plans``: a task trained with several plans in turns; steps timed, bytes counted."""

import gc
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from adamesh.bench.laps import leave
from adamesh.data.seeds import derived_seed
from adamesh.optimizer import MeshOptimizer
from adamesh.tasks.catalog import find_task
from adamesh.train.config import load_config, resolved
from adamesh.train.names import build_optimizer, build_plan
from adamesh.train.run import Run
from adamesh.train.settings import PlanSettings
from adamesh.train.step import Stepper
from adamesh.train.workers import GroupWorkers

__all__ = ["Course", "Seen", "main"]

_WARMUP = 3
_LONGEST_PROFILED = 16
_MANY_STEPS = 1 << 30


@dataclass(frozen=True)
class Course:
    """What is trained."""

    plans: tuple[dict[str, Any], ...]
    """``name`` and ``settings`` of each."""
    rounds: int
    steps: int
    """Of a turn; whole periods of the schedule at least."""
    memory: bool
    """Find the allocator's peak first."""


@dataclass(frozen=True)
class Seen:
    """What one plan did."""

    plan: str
    step_s: list[float]
    """The mean step of each turn."""
    bytes_up_per_step: float
    bytes_down_per_step: float
    state_bytes: int
    peak_bytes: int | None


def main(arguments: Sequence[str]) -> int:
    """Run the course in the file ``arguments[0]``; what was seen goes beside it."""
    file = Path(arguments[0])
    plain = json.loads(file.read_text(encoding="utf-8"))
    course = Course(**{**plain, "plans": tuple(plain["plans"])})
    config = load_config(file.with_name("config.toml"))
    task = find_task(config.task)
    config = replace(resolved(config, task), steps=_MANY_STEPS, epochs=None)
    splits = task.load_data(config.data, config.seed)
    workers = GroupWorkers.join(torch.device("cpu"), None)
    runs = {
        plan["name"]: Run(
            replace(config, plan=PlanSettings(**plan["settings"])),
            task,
            splits,
            file.parent,
            workers,
            torch.device("cpu"),
        )
        for plan in course.plans
    }
    peaks = {name: _peak(run) if course.memory else None for name, run in runs.items()}
    trainees = {name: _Trainee(run) for name, run in runs.items()}
    for _ in range(course.rounds):
        for trainee in trainees.values():
            dist.barrier()
            trainee.turn(course.steps)
    leave(file, workers.rank, [trainee.seen(name, peaks[name]) for name, trainee in trainees.items()])
    for trainee in trainees.values():
        trainee.close()
    dist.barrier()
    workers.part()
    return 0


class _Trainee:
    """A model that is trained with one plan."""

    def __init__(self, run: Run) -> None:
        torch.manual_seed(derived_seed("model", run.config.seed))
        self._period = run.config.plan.schedule.h
        model = run.task.build_model().train()
        plan = build_plan(run.config.plan, run.device, run.workers.size, run.config.optim.rule)
        optimizer = build_optimizer(run.config.optim, model, plan)
        assert isinstance(optimizer, MeshOptimizer)
        self._optimizer = optimizer
        self._stepper = Stepper(run, model, optimizer)
        self._number = 0
        self._step_s: list[float] = []
        self._up: list[int] = []
        self._down: list[int] = []
        for _ in range(_WARMUP):
            self.step()

    def step(self) -> None:
        self._stepper.take(self._number)
        self._number += 1

    def turn(self, steps: int) -> None:
        """Whole periods of steps, timed together."""
        num = -(-steps // self._period) * self._period
        if self._period == 1:
            self.step()  # brings back to caches what the others displaced
        start_s = perf_counter()
        for _ in range(num):
            self.step()
            stats = self._optimizer.stats()
            self._up.append(stats.bytes_up)
            self._down.append(stats.bytes_down)
        self._step_s.append((perf_counter() - start_s) / num)

    def seen(self, name: str, peak_bytes: int | None) -> Seen:
        """What it did."""
        up, down = statistics.mean(self._up), statistics.mean(self._down)
        return Seen(name, self._step_s, up, down, self._optimizer.stats().state_bytes, peak_bytes)

    def close(self) -> None:
        """No more steps."""
        self._stepper.close()


def _peak(run: Run) -> int | None:
    """The most that torch's allocator had given out at once, from building the model through a period of steps.

    It counts what tensors take, which is what a device must hold; a process' resident memory has the interpreter,
    libraries and the data set in it, and freed memory that the C library keeps.
    """
    if run.config.plan.schedule.h > _LONGEST_PROFILED:
        return None
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainee = _Trainee(replace(run, config=replace(run.config, prefetch=0)))
        for _ in range(run.config.plan.schedule.h):
            trainee.step()
    trainee.close()
    results: Any = profiler.profiler.kineto_results
    live = peak = 0
    events = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
