"""From rounds to results: medians, spreads, and ratios of measurements of the same round."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import sub, truediv
from statistics import mean, median, quantiles

from adamesh.bench.options import BASELINE, FLOOR
from adamesh.bench.records import Found

__all__ = ["ContenderResult", "ModelResult", "Spread", "interval_of_median", "quartiles", "summarise"]

_COVERAGE = 0.95
# Measured: rounding, grown by 90 steps of Adam on 3 workers, 1.3e-3; training without communication, 0.35.
_AGREEMENT = 1e-2


@dataclass(frozen=True)
class Spread:
    """A median and what lies around it."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class ContenderResult:
    """What was measured of one contender on one model."""

    step_s: Spread
    """Median and quartiles over rounds of the slowest worker's seconds per step."""
    ratio: Spread
    """Median over rounds of the step time over the baseline's in the same round, and its interval."""
    over_floor_s: Spread
    """Step time minus forward and backward alone in the same round, median and quartiles."""
    communication_s: Spread | None
    """Step time minus the twin's in the same round, median and quartiles; None: it does not communicate."""
    waited_s: float | None
    """Median of the seconds per step that the optimizer itself says it waited; None: it does not say."""
    state_bytes: int
    """Optimizer state of the worker that has most."""
    bytes_sent: int
    """Per step and worker, on the average."""
    relative_deviation: float | None
    """Distance of its final parameters from the baseline's, over the distance that those went."""
    largest_deviation: float | None
    """The same for the one parameter that is furthest off."""
    peak_bytes: int | None = None
    """How far the worker that grew most did; None: not measured."""

    @property
    def agrees(self) -> bool:
        """Whether it did the same training, up to rounding."""
        return self.relative_deviation is None or self.relative_deviation <= _AGREEMENT


@dataclass(frozen=True)
class ModelResult:
    """What was measured on one model, twins included, and all the raw numbers."""

    description: str
    param_count: int
    contenders: Mapping[str, ContenderResult]
    foreign_cores: float
    """Cores that other processes kept busy meanwhile, on the average."""
    rounds_step_s: Mapping[str, Sequence[Sequence[float]]]
    """By contender, worker and round."""


def quartiles(values: Sequence[float]) -> Spread:
    """Median and quartiles, interpolated."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def interval_of_median(values: Sequence[float]) -> Spread:
    """The median and its 95 % confidence interval by order statistics, for any distribution.

    With fewer than six values no such interval exists: then from the least to the greatest.

    Source: Conover, Practical Nonparametric Statistics (1999), section 3.2, on the binomial of 1/2.
    """
    ordered = sorted(values)
    n = len(ordered)
    # Between the k-th from below and from above lies the median, but for P(fewer than k of n heads), twice.
    k = 1
    while 2 * sum(math.comb(n, heads) for heads in range(k + 1)) <= (1 - _COVERAGE) * 2**n:
        k += 1
    return Spread(median(ordered), ordered[k - 1], ordered[n - k])


def summarise(workers: Sequence[Found], twins: Mapping[str, str | None]) -> ModelResult:
    """Put together what the workers found.

    Args:
        workers: by rank.
        twins: of every contender that was timed: the one to subtract, or None.
    """
    first = workers[0]
    rounds = {name: [worker.timings[name].step_s for worker in workers] for name in first.timings}
    # All workers wait for the slowest one.
    slowest = {name: [max(times) for times in zip(*rows, strict=True)] for name, rows in rounds.items()}

    foreign_core_s = first.load.machine_core_s - sum(worker.load.own_core_s for worker in workers)

    def result(name: str) -> ContenderResult:
        twin = twins[name]
        waited = [median(w.timings[name].waited_s) for w in workers if w.timings[name].waited_s]
        deviation = first.deviations.get(name)
        return ContenderResult(
            step_s=quartiles(slowest[name]),
            ratio=interval_of_median(_paired(truediv, slowest[name], slowest[BASELINE])),
            over_floor_s=quartiles(_paired(sub, slowest[name], slowest[FLOOR])),
            communication_s=None if twin is None else quartiles(_paired(sub, slowest[name], slowest[twin])),
            waited_s=max(waited, default=None),
            state_bytes=max(worker.state_bytes[name] for worker in workers),
            bytes_sent=round(mean(worker.bytes_sent[name] for worker in workers)),
            relative_deviation=None if deviation is None else deviation.relative,
            largest_deviation=None if deviation is None else deviation.largest,
        )

    return ModelResult(
        description=first.description,
        param_count=first.param_count,
        contenders={name: result(name) for name in rounds},
        foreign_cores=max(0.0, foreign_core_s / first.load.seconds),
        rounds_step_s=rounds,
    )


def _paired(
    operation: Callable[[float, float], float], values: Sequence[float], others: Sequence[float]
) -> list[float]:
    return [operation(value, other) for value, other in zip(values, others, strict=True)]
