"""compare.json: all that a comparison has found, for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from adamesh.train.config import config_hash
from adamesh.train.files import json_line, write_whole
from adamesh.train.settings import RunConfig
from adamesh.tune.results import CONFIDENCE, ArmResult
from adamesh.tune.table import method

__all__ = ["write_record"]


def write_record(results: Sequence[ArmResult], config: RunConfig, file: Path) -> None:
    """Write it, whole or not at all.

    Args:
        results: of the arms, the one that others are compared with first.
        config: of the first arm.
        file: where to.
    """
    metric = config.best_metric
    arms = []
    for result in results:
        difference = None if result is results[0] else result.difference(results[0], metric, len(results) - 1)
        names = sorted({name for trial in result.finished for name in trial.metrics})
        means = {name: result.interval(name) for name in names}
        arms.append(
            {
                "name": result.arm.name,
                "settings": dict(result.arm.settings),
                "config_hash": config_hash(result.arm.config),
                "nproc": result.arm.config.nproc,
                "means": {name: asdict(interval) for name, interval in means.items() if interval is not None},
                "difference": None if difference is None else asdict(difference) | {"verdict": difference.verdict},
                "trials": [asdict(trial) for trial in result.trials],
            }
        )
    record = {
        "task": config.task,
        "metric": metric,
        "confidence": CONFIDENCE,
        "method": method(results, metric),
        "arms": arms,
    }
    write_whole(file, json_line(record) + "\n")
