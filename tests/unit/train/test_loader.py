import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adamesh.data.draws import uniform
from adamesh.data.seeds import derived_seed
from adamesh.data.split import TensorSplit
from adamesh.tasks.base import Splits
from adamesh.tasks.catalog import find_task
from adamesh.train.config import PlanSettings, RunConfig, resolved
from adamesh.train.loader import Loader
from adamesh.train.reference import Reference
from adamesh.train.run import Run
from adamesh.train.workers import GroupWorkers

TASK = find_task("regression")


class Indices:
    """A split whose batches are the indices themselves."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked: list[tuple[list[int], int | None]] = []

    def __len__(self) -> int:
        return self.length

    def batch(self, indices: torch.Tensor) -> Any:
        self.asked.append((indices.tolist(), None))
        return indices


class Augmented(Indices):
    def augmented_batch(self, indices: torch.Tensor, seed: int) -> Any:
        self.asked.append((indices.tolist(), seed))
        return indices


def run_on(split: Any, config: RunConfig, rank: int = 0, size: int = 1) -> Run:
    splits: Any = Splits(split, split, "")
    return Run(resolved(config, TASK), TASK, splits, Path(), GroupWorkers(rank, size, group=None), torch.device("cpu"))


def loader(split: Indices, config: RunConfig, rank: int = 0, size: int = 1) -> Loader:
    return Loader(run_on(split, config, rank, size))


def samples(loader: Loader, steps: range) -> list[int]:
    seen = [index for step in steps for part in loader.take(step).parts for index in part.batch.tolist()]
    loader.close()
    return seen


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_every_sample_of_an_epoch_is_seen_once_though_workers_change_in_the_middle(prefetch):
    config = RunConfig(batch_size=7, epochs=2, prefetch=prefetch, micro_batches=2)
    before = [samples(loader(Indices(100), config, rank, 2), range(6)) for rank in range(2)]
    after = [samples(loader(Indices(100), config, rank, 3), range(6, 15)) for rank in range(3)]
    assert sorted(index for part in before + after for index in part) == list(range(100))


def test_running_ahead_changes_nothing_of_what_is_trained_on():
    config = RunConfig(batch_size=7, epochs=3)
    plain = samples(loader(Indices(50), replace(config, prefetch=0)), range(24))
    assert samples(loader(Indices(50), replace(config, prefetch=4)), range(24)) == plain


def test_an_augmented_split_is_given_the_epochs_seed_and_no_other():
    split = Augmented(20)
    samples(loader(split, RunConfig(batch_size=10, epochs=2, seed=3)), range(4))
    seeds = [seed for _, seed in split.asked]
    assert seeds == [derived_seed("augment", 3, epoch) for epoch in (0, 0, 1, 1)]


def test_what_a_check_compares_with_is_trained_on_the_same_augmented_samples():
    class Shifted(TensorSplit):
        def augmented_batch(self, indices: torch.Tensor, seed: int) -> Any:
            inputs, targets = self.batch(indices)
            return inputs + uniform(seed, indices, 8).float(), targets

    split = Shifted(torch.ones(20, 8), torch.zeros(20, 1))
    run = run_on(split, RunConfig(batch_size=10, epochs=2, prefetch=0), size=2)
    reference = Reference(run, noise=0)
    for step in (1, 2):  # of two epochs
        for rank, gradients in enumerate(reference.gradients(step)):
            (part,) = Loader(replace(run, workers=GroupWorkers(rank, 2, group=None))).take(step).parts
            model = reference._models[rank]
            weight, _ = torch.autograd.grad(TASK.loss(model, part.batch), list(model.parameters()))
            torch.testing.assert_close(gradients["weight"], weight)


def test_nothing_is_prepared_beyond_the_end_of_the_run():
    split = Indices(20)
    samples(loader(split, RunConfig(batch_size=10, steps=3, prefetch=8)), range(3))
    assert len(split.asked) == 3


def test_an_error_in_a_batch_is_raised_by_the_step_that_needs_it():
    class Broken(Indices):
        def batch(self, indices: torch.Tensor) -> Any:
            if len(self.asked) == 2:
                raise OSError("the disk is gone")
            return super().batch(indices)

    one = loader(Broken(40), RunConfig(batch_size=10, steps=4, prefetch=2))
    for step in range(2):
        one.take(step)
    with pytest.raises(OSError, match="the disk is gone"):
        one.take(2)
    one.close()


def test_a_closed_loader_leaves_no_thread_behind():
    before = threading.active_count()
    one = loader(Indices(40), RunConfig(batch_size=10, steps=4, prefetch=2))
    one.take(0)
    one.close()
    assert threading.active_count() == before


def test_the_time_waited_for_a_slow_split_is_told():
    class Slow(Indices):
        def batch(self, indices: torch.Tensor) -> Any:
            threading.Event().wait(0.05)
            return super().batch(indices)

    one = loader(Slow(40), RunConfig(batch_size=10, steps=4, prefetch=0))
    assert one.take(0).waited_s >= 0.05


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_share_that_changed_is_served_at_once_and_nothing_is_lost_or_prepared_twice_without_need(prefetch):
    config = RunConfig(task="regression", batch_size=8, steps=8, prefetch=prefetch, plan=PlanSettings(balance=True))
    splits = [Indices(64) for _ in range(2)]
    pair = [loader(split, config, rank, 2) for rank, split in enumerate(splits)]
    seen: list[int] = []
    sizes = []
    for step in range(8):
        parts = [[index for part in one.take(step).parts for index in part.batch.tolist()] for one in pair]
        sizes.append([len(part) for part in parts])
        seen += [index for part in parts for index in part]
        for one in pair:
            one.observe(step, [0.001 * len(parts[0]), 0.003 * len(parts[1])])
    for one in pair:
        one.close()
    assert sorted(seen) == list(range(64))
    assert sizes == [[4, 4]] * 2 + [[6, 2]] * 6
    # What was ahead when shares changed, and had been prepared, is prepared again; nothing else is.
    for split in splits:
        asked = [tuple(indices) for indices, _ in split.asked]
        assert len(set(asked)) == len(asked) <= 8 + prefetch
