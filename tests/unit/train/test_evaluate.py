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
from adamesh.train.workers import Workers

TASK = find_task("digits")


class Overheard(Workers):
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


def test_without_test_data_there_is_an_error_not_a_division_by_zero():
    with pytest.raises(DataError, match="test data of digits is empty"):
        metrics_of(1, 0)


def test_batches_of_any_shape_are_moved_whole():
    x = torch.zeros(2)
    moved = to_device({"a": (x, [x]), "n": 3}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][0].device.type == "meta"
    assert moved["n"] == 3
