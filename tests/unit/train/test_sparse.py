"""A task whose model has embeddings with sparse=True, in the trainer and in the check."""

import pytest
import torch

from adamesh.errors import ConfigurationError
from adamesh.tasks.catalog import find_task
from adamesh.train.check import REPORT, check_worker
from adamesh.train.comparison import CheckReport
from adamesh.train.config import load_config, resolved, write_config
from adamesh.train.progress import Silent
from adamesh.train.run import Run
from adamesh.train.settings import OptimSettings, RunConfig
from adamesh.train.trainer import Trainer
from adamesh.train.workers import GroupWorkers

TASK = """
import torch
from torch import nn
from adamesh.data.split import TensorSplit
from adamesh.tasks.base import Splits, Task, TaskDefaults

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = nn.Embedding(40, 4, sparse=True), nn.Embedding(30, 4, sparse=True)
        self.scale = nn.Linear(1, 1)

    def forward(self, pairs):
        return self.scale((self.users(pairs[:, 0]) + self.items(pairs[:, 1])).sum(1, keepdim=True)).squeeze(1)

class Ratings(Task):
    name, summary = "ratings", "users and items"
    defaults = TaskDefaults(batch_size=32, epochs=2, lr=0.1)

    def build_model(self):
        return Model()

    def load_data(self, data, seed):
        generator = torch.Generator().manual_seed(seed)
        pairs = torch.stack([torch.randint(0, n, (400,), generator=generator) for n in (40, 30)], 1)
        ratings = (pairs[:, 0] % 2).float() * 2 - 1
        return Splits(TensorSplit(pairs[:320], ratings[:320]), TensorSplit(pairs[320:], ratings[320:]), "generated")

    def loss(self, model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    def metrics(self, model, batch):
        return {"loss": (model(batch[0]) - batch[1]).square().sum()}
"""


@pytest.fixture
def task(tmp_path):
    file = tmp_path / "ratings.py"
    file.write_text(TASK)
    return str(file)


def config(task, sparse, steps):
    optim = OptimSettings(sparse=sparse)
    return RunConfig(task=task, steps=steps, eval_every=7, checkpoint_every=9, optim=optim)


def trained(folder, config, resume=False):
    task = find_task(config.task)
    full = resolved(config, task)
    folder.mkdir(exist_ok=True)
    workers, device = GroupWorkers(0, 1, group=None), torch.device("cpu")
    trainer = Trainer(Run(full, task, task.load_data(None, full.seed), folder, workers, device), Silent())
    return trainer.train(resume), trainer.model


@pytest.mark.parametrize("mode", ["lazy", "decayed", "exact"])
def test_a_run_with_sparse_embeddings_learns_and_goes_on_where_it_was_cut(tmp_path, task, mode):
    whole, model = trained(tmp_path / "whole", config(task, mode, steps=60))
    assert whole.eval["loss"] < 0.9
    trained(tmp_path / "cut", config(task, mode, steps=9))
    _, resumed = trained(tmp_path / "cut", config(task, mode, steps=60), resume=True)
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_exact_embeddings_pass_the_check_against_dense_adam(tmp_path, task):
    (tmp_path / "check").mkdir()
    full = resolved(config(task, "lazy", steps=8), find_task(task))
    write_config(full, tmp_path / "check" / "config.toml")
    check_worker(tmp_path / "check")
    report = CheckReport.load(tmp_path / "check" / REPORT)
    assert (report.steps, len(report.parameters)) == (8, 4)
    assert not any(parameter.complaints() for parameter in report.parameters)


def test_a_mode_that_is_none_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text("[optim]\nsparse = 'greedy'")
    with pytest.raises(ConfigurationError, match=r"optim\.sparse = 'greedy'"):
        load_config(tmp_path / "config.toml")
