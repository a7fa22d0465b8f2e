"""A model that real workers train with one plan among several, a turn of steps at a time, to be timed."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from time import perf_counter

import torch

from adamesh.data.seeds import derived_seed
from adamesh.optimizer import MeshOptimizer
from adamesh.tasks.catalog import find_task
from adamesh.train.config import RunConfig, resolved
from adamesh.train.names import build_optimizer, build_plan
from adamesh.train.run import Run
from adamesh.train.settings import PlanSettings
from adamesh.train.step import Stepper
from adamesh.train.workers import Workers

__all__ = ["Lapper", "endless", "in_turns"]

_WARMUP = 3
_MANY_STEPS = 1 << 30


def endless(config: RunConfig) -> RunConfig:
    """The configuration, with more steps than anybody makes."""
    return replace(resolved(config, find_task(config.task)), steps=_MANY_STEPS, epochs=None)


class Lapper:
    """A model, its optimizer and its data, with some steps made. Building it is collective.

    Args:
        run: with an `endless` configuration.
        plan: in place of the run's.
    """

    def __init__(self, run: Run, plan: PlanSettings) -> None:
        run = replace(run, config=replace(run.config, plan=plan))
        torch.manual_seed(derived_seed("model", run.config.seed))
        self._period = plan.schedule.h
        model = run.task.build_model().train()
        built = build_plan(plan, run.device, run.workers.size, run.config.optim.rule)
        optimizer = build_optimizer(run.config.optim, model, built)
        assert isinstance(optimizer, MeshOptimizer)
        self._optimizer = optimizer
        self._stepper = Stepper(run, model, optimizer)
        self._number = 0
        self._up: list[int] = []
        self._down: list[int] = []
        self.step_s: list[float] = []
        """The mean step of each turn, seconds."""
        for _ in range(_WARMUP):
            self.step()

    def step(self) -> None:
        """One, not timed."""
        self._stepper.take(self._number)
        self._number += 1

    def turn(self, steps: int) -> None:
        """At least so many steps, whole periods of them, timed together."""
        num = -(-steps // self._period) * self._period
        if self._period == 1:
            self.step()  # brings back to caches what the others displaced
        start_s = perf_counter()
        for _ in range(num):
            self.step()
            stats = self._optimizer.stats()
            self._up.append(stats.bytes_up)
            self._down.append(stats.bytes_down)
        self.step_s.append((perf_counter() - start_s) / num)

    @property
    def bytes_per_step(self) -> tuple[float, float]:
        """Sent up and down in a step, over all turns."""
        return statistics.mean(self._up), statistics.mean(self._down)

    @property
    def state_bytes(self) -> int:
        """Of this worker's optimizer."""
        return self._optimizer.stats().state_bytes

    def close(self) -> None:
        """No more steps."""
        self._stepper.close()


def in_turns(lappers: Sequence[Lapper], rounds: int, steps: int, workers: Workers, enough_s: float = inf) -> None:
    """Let each have its turn once a round, forwards and backwards. Collective.

    Args:
        lappers: in the same order on every worker.
        rounds: at most; one at least.
        steps: of a turn, at least.
        workers: all of them; they meet before each turn.
        enough_s: after so many seconds no further round begins.
    """
    began_s = perf_counter()
    for number in range(rounds):
        spent_s = workers.sum([perf_counter() - began_s])[0] / workers.size  # the same on all
        if number and spent_s >= enough_s:
            return
        for lapper in lappers if number % 2 else lappers[::-1]:
            workers.meet()
            lapper.turn(steps)
