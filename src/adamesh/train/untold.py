"""Steps that this worker has made and not told the others of: islands that step alone need no word for each."""

from collections.abc import Sequence
from dataclasses import dataclass

from adamesh.engine.meter import StepStats
from adamesh.sync.base import Schedule
from adamesh.train.step import LocalStep
from adamesh.train.workers import Workers

__all__ = ["OwnStep", "Untold", "meets_after"]

_MOST_ALONE = 8
"""Steps. Ctrl-C, a time limit and a loss that is not finite are noticed when workers talk, so they do, now and then."""


@dataclass(frozen=True)
class OwnStep:
    """One step, as this worker saw it."""

    local: LocalStep
    grad_norm: float
    stats: StepStats
    step_s: float
    shares: Sequence[float]
    """Numbers whose sums over all workers are wanted."""
    froze: bool
    """Second moments were frozen after it."""


class Untold:
    """The steps made since workers last talked, in order."""

    def __init__(self) -> None:
        self.steps: list[OwnStep] = []

    @property
    def seconds(self) -> float:
        """That they took."""
        return sum(step.step_s for step in self.steps)

    def sums(self, workers: Workers) -> list[list[float]]:
        """The sums over workers of each step's shares. Collective."""
        sums = iter(workers.sum([share for step in self.steps for share in step.shares]))
        return [[next(sums) for _ in step.shares] for step in self.steps]


def meets_after(schedule: Schedule, step: int) -> bool:
    """Whether workers talk after step number ``step``, counted from 0: where islands do, or it is time."""
    plan = schedule.at(step)
    return bool(plan.gradients or plan.averages or plan.launch or plan.land) or (step + 1) % _MOST_ALONE == 0
