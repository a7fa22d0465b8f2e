"""Metrics over a whole split: every worker evaluates its part, the sums are added, so they are exact."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adamesh.data.sampler import share
from adamesh.data.split import Split
from adamesh.errors import DataError
from adamesh.tasks.base import BinaryTask, Task
from adamesh.train.ranking import Ranking
from adamesh.train.run import Run

__all__ = ["evaluate", "to_device"]


def evaluate(run: Run, model: nn.Module, split: Split[Any]) -> dict[str, float]:
    """The mean of each of the task's metrics over all samples of one of the run's splits. Collective.

    The model, its buffers too, must be alike on all workers; it is left in training mode. A worker takes as
    many samples at a time as it does in training.
    """
    task, workers, device = run.task, run.workers, run.device
    assert run.config.batch_size is not None
    batch_size = -(-run.config.batch_size // workers.size)
    if len(split) == 0:
        raise DataError(f"the test data of {task.name} is empty; give it at least one sample")
    start, stop = share(len(split), workers.rank, workers.size)
    model.eval()
    sums: dict[str, float] = {}
    ranking = Ranking()
    with torch.no_grad():
        for first in range(start, stop, batch_size):
            batch = to_device(split.batch(torch.arange(first, min(first + batch_size, stop))), device)
            for name, value in _sums(task, model, batch).items():
                sums[name] = sums.get(name, 0.0) + value
            if isinstance(task, BinaryTask):
                ranking.add(task.scores(model, batch))
        if not sums:
            # More workers than samples: this one still needs the names, to take part in the sum.
            batch = to_device(split.batch(torch.zeros(1, dtype=torch.int64)), device)
            sums = dict.fromkeys(_sums(task, model, batch), 0.0)
            if isinstance(task, BinaryTask):
                ranking.add_nothing(task.scores(model, batch))
    model.train()
    names = sorted(sums)
    totals = workers.sum([sums[name] for name in names])
    means = {name: total / len(split) for name, total in zip(names, totals, strict=True)}
    return means | ranking.metrics(workers) if isinstance(task, BinaryTask) else means


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor in it on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)([to_device(value, device) for value in batch])
    return batch


def _sums(task: Task[Any], model: nn.Module, batch: Any) -> dict[str, float]:
    return {name: float(value) for name, value in task.metrics(model, batch).items()}
