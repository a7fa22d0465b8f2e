"""What trials have found: read from their folders, set beside each other."""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isfinite, nan
from pathlib import Path
from typing import Any

from adamesh.errors import ConfigurationError
from adamesh.train.config import config_hash, load_config
from adamesh.tune.arms import Arm, Trial
from adamesh.tune.statistics import Interval, mean_interval

__all__ = ["CONFIDENCE", "FAILURE", "ArmResult", "Curve", "Difference", "TrialResult", "is_finished", "read_trial"]

FAILURE = "failure.txt"
"""In a trial's folder: why it failed, in one line."""
CONFIDENCE = 0.95
_UNFINISHED = (None, "interrupted")


@dataclass(frozen=True)
class Curve:
    """Evaluations on the test data, and what had been used up when they were made."""

    samples: list[int]
    seconds: list[float]
    """In steps."""
    bytes: list[float]
    """Up and down, of the first worker."""
    losses: list[float | None]
    """None: not finite."""


@dataclass(frozen=True)
class TrialResult:
    """How one trial ended."""

    seed: int
    failure: str | None
    """Why there is nothing else, in one line; None: it finished, or is still to come."""
    metrics: Mapping[str, float]
    """Of the last evaluation; empty unless it finished."""
    samples: int = 0
    seconds: float = 0.0
    """In steps."""
    bytes_per_step: float = 0.0
    """Up and down, the mean over workers."""
    bytes_total: float = 0.0
    """The same over all steps and workers."""
    curve: Curve | None = None

    @property
    def finished(self) -> bool:
        return bool(self.metrics)


@dataclass(frozen=True)
class Difference:
    """Of an arm's metric from the first arm's, seed by seed."""

    interval: Interval
    num_seeds: int
    confidence: float

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        if self.num_seeds < 2:
            return "one seed: noise unknown"
        if self.interval.low == self.interval.high == 0:
            return "identical"
        return "differs" if self.interval.excludes_zero else "within noise"


@dataclass(frozen=True)
class ArmResult:
    """What an arm's trials say together."""

    arm: Arm
    trials: Sequence[TrialResult]

    @property
    def finished(self) -> list[TrialResult]:
        return [trial for trial in self.trials if trial.finished]

    def interval(self, metric: str) -> Interval | None:
        """The mean of a metric over seeds; None: no trial has it, as a number."""
        values = list(_values(self, metric).values())
        return mean_interval(values, CONFIDENCE) if values else None

    def difference(self, other: "ArmResult", metric: str, num_compared: int) -> Difference | None:
        """From another arm, over the seeds that both finished: what seeds do to both alike cancels.

        Args:
            other: what this is compared with.
            metric: of the test data.
            num_compared: differences that are looked at together. The more, the more confidence each needs, so
                that with 95 % probability none of them is taken for real that is not (Bonferroni).
        """
        mine, theirs = _values(self, metric), _values(other, metric)
        differences = [mine[seed] - theirs[seed] for seed in mine if seed in theirs]
        if not differences:
            return None
        confidence = 1 - (1 - CONFIDENCE) / max(1, num_compared)
        return Difference(mean_interval(differences, confidence), len(differences), confidence)


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder came to its own end."""
    return _summary(folder).get("stopped") not in _UNFINISHED


def read_trial(trial: Trial) -> TrialResult:
    """What has become of a trial so far.

    Raises:
        ConfigurationError: the folder holds a run with other settings.
    """
    folder, seed = trial.folder, trial.config.seed
    if (folder / "config.toml").is_file():
        found = load_config(folder / "config.toml")
        if (config_hash(found), found.nproc) != (config_hash(trial.config), trial.config.nproc):
            raise ConfigurationError(
                f"{folder}: holds a trial with other settings than {trial.name} has now; choose another --out"
            )
    if not is_finished(folder):
        failure = folder / FAILURE
        return TrialResult(seed, failure.read_text(encoding="utf-8").strip() if failure.exists() else None, {})
    summary = _summary(folder)
    per_step = summary["bytes_up_per_step"] + summary["bytes_down_per_step"]
    curve = _curve(folder / "metrics.jsonl", trial.config.log_every)
    return TrialResult(
        seed=seed,
        failure=None,
        metrics={name: float("nan") if value is None else value for name, value in summary["eval"].items()},
        samples=summary["samples"],
        seconds=summary["samples"] / summary["samples_per_s"],
        bytes_per_step=per_step,
        bytes_total=per_step * summary["steps"] * summary["world_size"],
        curve=curve,
    )


def _values(result: ArmResult, metric: str) -> dict[int, float]:
    """By seed, where they are finite."""
    return {t.seed: t.metrics[metric] for t in result.finished if isfinite(t.metrics.get(metric, nan))}


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    if not path.is_file():
        return {}
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _curve(path: Path, log_every: int) -> Curve:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line]
    # Of the steps between two lines, one was written down for all.
    seconds = [0.0, *accumulate(log_every * step["step_s"] for step in steps)]
    sent = [0.0, *accumulate(log_every * (step["bytes_up"] + step["bytes_down"]) for step in steps)]
    numbers = [step["step"] for step in steps]
    tests = [line for line in lines if "eval_loss" in line]
    known = [bisect_right(numbers, test["step"]) for test in tests]
    return Curve(
        samples=[test["samples"] for test in tests],
        seconds=[seconds[count] for count in known],
        bytes=[sent[count] for count in known],
        losses=[test["eval_loss"] for test in tests],
    )
