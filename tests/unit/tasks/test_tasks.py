"""What every built-in task promises, whatever it trains."""

import pytest
import torch

from adamesh.errors import DataError
from adamesh.tasks.catalog import find_task, task_names

pytestmark = pytest.mark.parametrize("name", task_names())


def test_a_task_is_found_under_its_own_name_and_says_what_it_is(name):
    task = find_task(name)
    assert task.name == name
    assert task.summary
    assert (task.defaults.steps is None) != (task.defaults.epochs is None)


def test_sums_over_any_cut_of_the_data_are_the_sums_over_all_of_it(name):
    task = find_task(name)
    test = task.load_data(None, seed=0).test
    torch.manual_seed(0)
    model = task.build_model().eval()
    with torch.no_grad():
        whole = task.metrics(model, test.batch(torch.arange(9)))
        parts = [task.metrics(model, test.batch(indices)) for indices in torch.arange(9).split([1, 5, 3])]
        mean_loss = task.loss(model, test.batch(torch.arange(9)))
    for metric, total in whole.items():
        assert total.shape == ()
        torch.testing.assert_close(sum(part[metric] for part in parts), total)
    torch.testing.assert_close(whole["loss"] / 9, mean_loss)


def test_data_are_the_same_on_every_worker_and_the_header_says_which(name):
    one, other = (find_task(name).load_data(None, seed=3) for _ in range(2))
    assert "real" in one.source or "generated" in one.source
    assert len(one.train) > 0
    assert len(one.test) > 0
    for mine, theirs in zip(one.train.batch(torch.arange(4)), other.train.batch(torch.arange(4)), strict=True):
        assert torch.equal(mine, theirs)


def test_data_that_are_not_there_are_refused(name, tmp_path):
    with pytest.raises(DataError, match="absent"):
        find_task(name).load_data(tmp_path / "absent", seed=0)
