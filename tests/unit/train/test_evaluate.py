from pathlib import Path
from typing import Any

import pytest
import torch

from adamesh.errors import DataError
from adamesh.tasks.base import Splits
from adamesh.tasks.catalog import find_task
from adamesh.train.config import RunConfig, resolved
from adamesh.train.evaluate import evaluate, to_device
from adamesh.train.run import Run
from adamesh.train.workers import GroupWorkers

TASK = find_task("digits")


class Overheard(GroupWorkers):
    """One of several workers; keeps what it would have added to the sum."""

    def sum(self, values):
        self.said = list(values)
        return self.said


def metrics_of(size, num_samples):
    data: Any = TASK.load_data(None, seed=0)
    test = data.test
    test._inputs, test._targets = test._inputs[:num_samples], test._targets[:num_samples]
    torch.manual_seed(0)
    model = TASK.build_model()
    config = resolved(RunConfig(batch_size=7), TASK)
    totals = []
    for rank in range(size):
        workers = Overheard(rank, size, group=None)
        run = Run(config, TASK, Splits(data.train, test, ""), Path(), workers, torch.device("cpu"))
        means = evaluate(run, model, test)
        totals.append(torch.tensor(workers.said))
    assert model.training
    return list(means), sum(totals) / num_samples


@pytest.mark.parametrize("num_samples", [1, 2, 40])
def test_metrics_do_not_depend_on_the_number_of_workers(num_samples):
    names, alone = metrics_of(1, num_samples)
    for size in (2, 3, 5):
        assert metrics_of(size, num_samples)[0] == names
        torch.testing.assert_close(metrics_of(size, num_samples)[1], alone)


class FirstOf:
    """The first samples of a split."""

    def __init__(self, split, count):
        self.batch, self._count = split.batch, count

    def __len__(self):
        return self._count


class OneOfThree(GroupWorkers):
    """A worker without samples of its own; what it gathers is what it has."""

    gathered: list[int]

    def sum(self, values):
        return list(values)

    def gather(self, values):
        self.gathered.append(len(values))
        return values


def test_a_worker_without_samples_takes_part_in_every_gathering_of_a_binary_task():
    task: Any = find_task("movielens-deepfm")
    data = task.load_data(None, seed=0)
    test = FirstOf(data.test, 2)
    workers = OneOfThree(0, 3, group=None)
    workers.gathered = []
    config = resolved(RunConfig(batch_size=8), task)
    run = Run(config, task, Splits(data.train, test, ""), Path(), workers, torch.device("cpu"))
    metrics = evaluate(run, task.build_model(), test)
    assert workers.gathered == [0, 0, 0, 0]  # scores and labels of both models
    assert {"auc", "log_loss", "baseline_auc", "baseline_log_loss"} <= set(metrics)


def test_without_test_data_there_is_an_error_not_a_division_by_zero():
    with pytest.raises(DataError, match="test data of digits is empty"):
        metrics_of(1, 0)


def test_batches_of_any_shape_are_moved_whole():
    x = torch.zeros(2)
    moved = to_device({"a": (x, [x]), "n": 3}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert moved["n"] == 3
