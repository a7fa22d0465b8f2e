import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import adamesh
from adamesh.comm.base import Communicator, Mesh
from adamesh.comm.local import LocalCommunicator
from adamesh.data.elastic import ElasticSampler
from adamesh.data.sampler import GlobalSampler, weighted_shares
from adamesh.data.shares import Shares
from adamesh.errors import ConfigurationError
from tests.semantics.ranks import everywhere


@dataclass(frozen=True)
class Place:
    rank: int
    size: int


@dataclass(frozen=True)
class Seat:
    world: Communicator


@dataclass
class Counter:
    """An optimizer as far as a sampler looks at it, whose steps a test makes and unmakes."""

    rank: int = 0
    size: int = 1
    steps_made: int = 0
    plan: adamesh.Plan = field(default_factory=adamesh.Plan)
    last: object = None

    @property
    def mesh(self) -> Mesh:
        return cast(Mesh, Seat(cast(Communicator, Place(self.rank, self.size))))

    def begin_work(self) -> None:
        pass

    def stats(self) -> Any:
        return self.last

    def step(self, made: bool = True) -> None:
        self.steps_made += made
        self.last = object()


def alone() -> Mesh:
    comm = LocalCommunicator()
    return Mesh(comm, comm, comm)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3), st.randoms(use_true_random=False))
def test_every_sample_of_every_epoch_is_trained_on_once_though_steps_fail_and_workers_change(
    num_samples, batch_size, epochs, micro_batches, dice
):
    counter = Counter()
    used: list[int] = []
    order = GlobalSampler(num_samples, batch_size, 7)
    while counter.steps_made < epochs * order.steps_per_epoch:
        # Each attempt has workers of its own; a joiner has nothing but the optimizer's count.
        size, made, step = dice.randint(1, 4), dice.random() < 0.7, counter.steps_made
        attempt: list[int] = []
        for rank in range(size):
            mine = replace(counter, rank=rank, size=size, last=None)
            sampler = ElasticSampler(num_samples, batch_size, mine, seed=7, epochs=epochs, micro_batches=micro_batches)
            for indices in sampler:
                attempt += indices.tolist()
                if sampler.closes_step:
                    break
            assert sampler.step == step
            assert sampler.epoch == order.epoch(step)
        if made:
            used += attempt
        counter.step(made)
    seen = [0] * num_samples
    for index in used:
        seen[index] += 1
    assert seen == [epochs] * num_samples


def test_a_step_that_was_not_made_gets_its_samples_again_cut_among_those_who_are_left():
    counter = Counter(rank=2, size=4)
    sampler = ElasticSampler(40, 8, counter, epochs=1)
    batch = GlobalSampler(40, 8, 0).global_batch(0)
    samples = iter(sampler)
    assert torch.equal(next(samples), batch[4:6])
    counter.rank, counter.size = 1, 2
    counter.step(made=False)
    assert torch.equal(next(samples), batch[4:8])
    assert sampler.weight == 1.0
    counter.step()
    assert not torch.equal(next(samples), batch[4:8])
    assert sampler.step == 1


def test_iteration_ends_after_the_epochs_counted_from_the_optimizers_first_step():
    counter = Counter(steps_made=4)
    taken = []
    for indices in ElasticSampler(10, 4, counter, epochs=2):
        taken.append(len(indices))
        counter.step()
    assert taken == [4, 2]


def test_a_loop_that_forgets_to_step_is_told_of_micro_batches():
    samples = iter(ElasticSampler(10, 4, Counter()))
    next(samples)
    with pytest.raises(ConfigurationError, match=r"has not called optimizer\.step\(\).*micro_batches"):
        next(samples)


def test_a_step_before_the_last_part_is_refused():
    counter = Counter()
    samples = iter(ElasticSampler(10, 4, counter, micro_batches=2))
    next(samples)
    counter.step()
    with pytest.raises(ConfigurationError, match="after part 1 of 2 of step 0"):
        next(samples)


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "epochs", "micro_batches"])
def test_numbers_out_of_range_are_refused(name):
    numbers = {"num_samples": 10, "batch_size": 4, name: 0}
    with pytest.raises(ConfigurationError, match=f"{name}=0 is out of range"):
        ElasticSampler(optimizer=Counter(), **numbers)


def test_workers_that_go_at_their_own_speed_share_no_batch():
    with pytest.raises(ConfigurationError, match=r"sync=Async.*step of its own"):
        ElasticSampler(10, 4, Counter(plan=adamesh.Plan(sync=adamesh.Async())))


DATA, TARGETS = torch.randn(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def trained(mesh: Mesh, micro_batches: int = 1, weights: Sequence[int] | None = None) -> torch.Tensor:
    """Two epochs of 50 samples in batches of 7, the last of them of one sample."""
    layer = nn.Linear(3, 3, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.fill_(0.1)
    optimizer = adamesh.AdamW(layer.parameters(), lr=0.05, plan=adamesh.Plan(mesh=mesh, balance=weights is not None))
    sampler = ElasticSampler(50, 7, optimizer, epochs=2, micro_batches=micro_batches)
    for indices in sampler:
        backward = (layer(DATA[indices]) - TARGETS[indices]).square().mean() * sampler.weight
        if sampler.closes_step:
            if len(indices):
                backward.backward()
            optimizer.step()
            optimizer.zero_grad()
        elif len(indices):
            with optimizer.no_sync():
                backward.backward()
    return layer.weight.detach().clone()


@pytest.mark.parametrize(("micro_batches", "weights"), [(1, None), (3, None), (1, (5, 0, 2)), (2, (0, 7, 0))])
def test_the_weighted_mean_of_any_cut_is_that_of_one_worker(micro_batches, weights, monkeypatch):
    whole = trained(alone())
    if weights is not None:
        monkeypatch.setattr(Shares, "counts", lambda shares, total: weighted_shares(total, weights))
    for values in everywhere(3, trained, micro_batches, weights):
        assert (values - whole).abs().max() <= 1e-12


def shares_of_a_slow_third_worker(mesh: Mesh) -> list[list[int]]:
    """What each worker is given, at each of six steps; the last one sleeps three times as long for a sample."""
    layer = nn.Linear(3, 3, dtype=torch.float64)
    optimizer = adamesh.AdamW(layer.parameters(), plan=adamesh.Plan(mesh=mesh, balance=True))
    counts = []
    for _, indices in zip(range(6), sampler := ElasticSampler(500, 42, optimizer), strict=False):
        counts.append(sampler._shares.counts(42))
        time.sleep(len(indices) * (0.003 if mesh.world.rank == 2 else 0.001))
        (layer(DATA[indices % 50]).square().mean() * sampler.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    return counts


def test_a_slow_worker_is_given_less_within_three_steps_and_all_know_it_alike():
    first, *others = everywhere(3, shares_of_a_slow_third_worker)
    assert all(counts == first for counts in others)
    assert first[0] == [14, 14, 14]
    assert all(counts[2] <= 9 for counts in first[2:])  # 6 where nothing disturbs


def test_a_limit_on_samples_is_for_balancing():
    with pytest.raises(ConfigurationError, match="most_samples=3 without"):
        ElasticSampler(10, 4, Counter(), most_samples=3)


def test_the_position_comes_back_with_the_optimizers_state():
    def built() -> tuple[nn.Linear, adamesh.AdamW]:
        layer = nn.Linear(3, 3, dtype=torch.float64)
        return layer, adamesh.AdamW(layer.parameters(), plan=adamesh.Plan(mesh=alone()))

    layer, optimizer = built()
    for _, indices in zip(range(3), ElasticSampler(20, 4, optimizer), strict=False):
        layer(DATA[indices]).mean().backward()
        optimizer.step()
    _, resumed = built()
    resumed.load_state_dict(optimizer.state_dict())
    assert torch.equal(next(iter(ElasticSampler(20, 4, resumed))), GlobalSampler(20, 4, 0).global_batch(3))
