"""Fleets of thousands of workers, simulated event by event: stragglers, failures, and what recovery costs.

A *round* is what happens between two agreements: each worker makes ``h`` steps at its own speed, then all wait for the
slowest, and for the network. Events are ends of rounds and failures, in the order of a queue; all that is random comes
from one seeded generator.

    speed of worker i       lognormal, its own for good, median 1 (``spread``)
    a step of it            lognormal around that (``jitter``)
    failures                Poisson, rate  workers / mtbf   (exponential times between those of a worker)

Who loses what when a worker fails:

    copies of state         the others go on after ``recovery_s``; a round of one step is made again, of a longer one
    (``redundant``)         only what the worker itself had done is lost; its place is empty for ``replacement_s``,
                            and its share is done by the others
    none                    everybody restarts: ``restart_s``, and all rounds since the last checkpoint are made again

Asynchronous workers wait for nobody, and a failure costs the worker its own time only.

Without stragglers and failures a run takes exactly ``rounds * (h * work + exposed)``. With failures and checkpoints
every ``T`` seconds the share of useful time is about ``1 - T / 2M - restart / M``, ``M`` the mean time between any two
failures (Young 1974; Daly 2006).
"""

import heapq
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Fleet", "Outcome", "Pace", "simulate"]


@dataclass(frozen=True)
class Fleet:
    """Who trains."""

    workers: int
    spread: float = 0.0
    """Standard deviation of the logarithm of workers' speeds."""
    jitter: float = 0.0
    """The same of one worker's steps."""
    mtbf_s: float = float("inf")
    """Mean time between failures of one worker."""
    recovery_s: float = 1.0
    """Until those who are left go on, where state has copies."""
    replacement_s: float = 600.0
    """Until somebody takes the lost worker's place."""
    restart_s: float = 120.0
    """Until all workers go on from a checkpoint."""


@dataclass(frozen=True)
class Pace:
    """How a plan goes on."""

    work_s: float
    """A median worker's own seconds a step."""
    exposed_s: float
    """Waited for the network, in a round."""
    h: int = 1
    """Steps of a round."""
    redundant: bool = False
    """State has copies: workers may be lost."""
    asynchronous: bool = False
    checkpoint_s: float = 600.0
    """Time between checkpoints, which are written behind training."""


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    seconds: float
    steps: float
    """Useful ones: of each worker, the mean over workers."""
    failures: int
    repeated_steps: float
    """Made again, of each worker."""
    waited_share: float
    """Of all workers' time in rounds, what was spent waiting for slower ones."""

    @property
    def steps_per_s(self) -> float:
        """Useful ones."""
        return self.steps / self.seconds if self.seconds else 0.0


def simulate(fleet: Fleet, pace: Pace, rounds: int, seed: int = 0, most_s: float = float("inf")) -> Outcome:
    """Let a fleet make so many rounds; the same for the same seed.

    Args:
        fleet: who.
        pace: how.
        rounds: useful ones.
        seed: of everything random.
        most_s: give up then: a fleet that fails faster than it restarts gets nowhere.
    """
    return _Simulation(fleet, pace, np.random.default_rng(seed)).run(rounds, most_s)


_Kind = Literal["failure", "returned", "round"]


class _Simulation:
    """The clock, the queue, and how far training is."""

    def __init__(self, fleet: Fleet, pace: Pace, random: np.random.Generator) -> None:
        self._fleet = fleet
        self._pace = pace
        self._random = random
        slowness = np.exp(fleet.spread * random.standard_normal(fleet.workers))
        self._slowness: npt.NDArray[np.float64] = slowness
        self._queue: list[tuple[float, int, _Kind]] = []
        self._number = 0
        self._now_s = 0.0
        self._present = fleet.workers
        self._done = 0
        self._saved, self._saved_at_s = 0, 0.0
        self._failures = self._repeated = 0
        self._waited_s = self._busy_s = 0.0
        self._round = 0
        """The number of the queued end of a round that counts; others were given up."""
        self._ends_s = 0.0

    def run(self, rounds: int, most_s: float) -> Outcome:
        """From the first event to the last useful round."""
        if self._pace.asynchronous:
            return self._run_asynchronous(rounds)
        self._expect_failure()
        self._begin_round(0.0)
        while self._done < rounds and self._now_s < most_s:
            self._now_s, number, kind = heapq.heappop(self._queue)
            if kind == "returned":
                self._present += 1
            elif kind == "failure":
                self._fail()
            elif number == self._round:
                self._end_round()
        pace = self._pace
        return Outcome(
            seconds=self._now_s,
            steps=float(self._done * pace.h),
            failures=self._failures,
            repeated_steps=float(self._repeated * pace.h),
            waited_share=self._waited_s / self._busy_s if self._busy_s else 0.0,
        )

    def _begin_round(self, pause_s: float) -> None:
        times = self._work_s(self._fleet.workers, self._pace.h) * self._slowness
        times = times[: self._present]
        # Samples of those who are away are done by the others.
        longest_s = float(times.max()) * self._fleet.workers / self._present
        self._waited_s += float((times.max() - times).sum())
        self._busy_s += float(times.max()) * len(times)
        self._ends_s = self._now_s + pause_s + longest_s + self._pace.exposed_s
        self._round = self._put(self._ends_s, "round")

    def _end_round(self) -> None:
        self._done += 1
        if self._now_s - self._saved_at_s >= self._pace.checkpoint_s:
            self._saved, self._saved_at_s = self._done, self._now_s
        self._begin_round(0.0)

    def _fail(self) -> None:
        self._failures += 1
        self._expect_failure()
        fleet = self._fleet
        if self._pace.redundant and self._present > 1:
            self._present -= 1
            self._put(self._now_s + fleet.replacement_s, "returned")
            if self._pace.h == 1:
                self._repeated += 1
                self._begin_round(fleet.recovery_s)
            else:
                self._ends_s += fleet.recovery_s
                self._round = self._put(self._ends_s, "round")
        else:
            self._repeated += self._done - self._saved + 1
            self._done = self._saved
            self._saved_at_s = self._now_s + fleet.restart_s
            self._begin_round(fleet.restart_s)

    def _run_asynchronous(self, rounds: int) -> Outcome:
        """Each worker by itself: its own steps, interrupted by its own failures, until their mean is enough."""
        fleet, pace = self._fleet, self._pace
        per_step_s = (pace.work_s * self._slowness) + pace.exposed_s / pace.h
        rate = float((1.0 / per_step_s).mean())
        span_s = rounds * pace.h / rate
        if not np.isfinite(fleet.mtbf_s):
            return Outcome(span_s, float(rounds * pace.h), 0, 0.0, 0.0)
        # A failed worker is away for its replacement; the others' time stretches by what it would have done.
        steps, now_s, failures = 0.0, 0.0, 0
        away: list[float] = []
        while steps < rounds * pace.h:
            next_s = now_s + float(self._random.exponential(fleet.mtbf_s / fleet.workers))
            until_s = min(next_s, away[0]) if away else next_s
            present = (fleet.workers - len(away)) / fleet.workers
            needed_s = (rounds * pace.h - steps) / (rate * present) if present else float("inf")
            taken_s = min(until_s - now_s, needed_s)
            steps += taken_s * rate * present
            now_s += taken_s
            if steps >= rounds * pace.h:
                break
            if away and until_s == away[0]:
                heapq.heappop(away)
            elif len(away) < fleet.workers:
                failures += 1
                heapq.heappush(away, now_s + fleet.replacement_s)
        return Outcome(now_s, steps, failures, failures / fleet.workers, 0.0)

    def _work_s(self, workers: int, steps: int) -> npt.NDArray[np.float64]:
        """Seconds of ``steps`` steps of each of so many workers of median speed."""
        jitter = self._fleet.jitter
        if not jitter:
            return np.full(workers, steps * self._pace.work_s)
        logs = jitter * self._random.standard_normal((workers, steps))
        seconds: npt.NDArray[np.float64] = self._pace.work_s * np.exp(logs).sum(axis=1)
        return seconds

    def _expect_failure(self) -> None:
        mtbf_s = self._fleet.mtbf_s
        if np.isfinite(mtbf_s):
            self._put(self._now_s + float(self._random.exponential(mtbf_s / self._fleet.workers)), "failure")

    def _put(self, at_s: float, kind: _Kind) -> int:
        self._number += 1
        heapq.heappush(self._queue, (at_s, self._number, kind))
        return self._number
