"""One worker of ``adamesh bench plans``: a task trained with several plans in turns; steps timed, bytes counted."""

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from adamesh.bench.laps import leave
from adamesh.tasks.catalog import find_task
from adamesh.train.config import load_config
from adamesh.train.laps import Lapper, endless, in_turns
from adamesh.train.run import Run
from adamesh.train.settings import PlanSettings
from adamesh.train.workers import GroupWorkers

__all__ = ["Course", "Seen", "main"]

_LONGEST_PROFILED = 16


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
    config = endless(load_config(file.with_name("config.toml")))
    task = find_task(config.task)
    splits = task.load_data(config.data, config.seed)
    workers = GroupWorkers.join(torch.device("cpu"), None)
    run = Run(config, task, splits, file.parent, workers, torch.device("cpu"))
    plans = {plan["name"]: PlanSettings(**plan["settings"]) for plan in course.plans}
    peaks = {name: _peak(run, plan) if course.memory else None for name, plan in plans.items()}
    lappers = {name: Lapper(run, plan) for name, plan in plans.items()}
    in_turns(list(lappers.values()), course.rounds, course.steps, workers)
    seen = [
        Seen(name, lapper.step_s, *lapper.bytes_per_step, lapper.state_bytes, peaks[name])
        for name, lapper in lappers.items()
    ]
    leave(file, workers.rank, seen)
    for lapper in lappers.values():
        lapper.close()
    dist.barrier()
    workers.part()
    return 0


def _peak(run: Run, plan: PlanSettings) -> int | None:
    """The most that torch's allocator had given out at once, from building the model through a period of steps.

    It counts what tensors take, which is what a device must hold; a process' resident memory has the interpreter,
    libraries and the data set in it, and freed memory that the C library keeps.
    """
    if plan.schedule.h > _LONGEST_PROFILED:
        return None
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        lapper = Lapper(replace(run, config=replace(run.config, prefetch=0)), plan)
        for _ in range(plan.schedule.h):
            lapper.step()
    lapper.close()
    results: Any = profiler.profiler.kineto_results
    live = peak = 0
    events = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
