from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from adamesh.data.sampler import GlobalSampler, share

samplers = st.builds(
    GlobalSampler,
    num_samples=st.integers(1, 70),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 2**63 - 1),
)


def taken(sampler: GlobalSampler, step: int, world_size: int) -> list[int]:
    """What all workers together take at a step, worker by worker."""
    batch = sampler.global_batch(step)
    parts = (share(len(batch), rank, world_size) for rank in range(world_size))
    return [index for start, stop in parts for index in batch[start:stop].tolist()]


@given(samplers, st.integers(0, 3), st.data())
def test_every_sample_of_an_epoch_is_taken_once_however_the_number_of_workers_changes(sampler, epoch, data):
    seen = []
    for step in range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch):
        world_size = data.draw(st.integers(1, 6))
        # A worker that joins or resumes has only the settings and the step to go by.
        fresh = GlobalSampler(sampler.num_samples, sampler.batch_size, sampler.seed)
        seen += taken(fresh, step, world_size)
    assert sorted(seen) == list(range(sampler.num_samples))


@given(samplers, st.integers(0, 50), st.integers(1, 9))
def test_a_batch_does_not_depend_on_the_number_of_workers(sampler, step, world_size):
    assert taken(sampler, step, world_size) == taken(sampler, step, 1)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_shares_are_contiguous_and_differ_by_at_most_one(count, world_size):
    parts = [share(count, rank, world_size) for rank in range(world_size)]
    assert parts[0][0] == 0
    assert parts[-1][1] == count
    assert all(before[1] == after[0] for before, after in pairwise(parts))
    sizes = [stop - start for start, stop in parts]
    assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_have_orders_of_their_own():
    sampler = GlobalSampler(num_samples=100, batch_size=100, seed=0)
    other = GlobalSampler(num_samples=100, batch_size=100, seed=1)
    assert not torch.equal(sampler.global_batch(0), sampler.global_batch(1))
    assert not torch.equal(sampler.global_batch(0), other.global_batch(0))
    assert torch.equal(sampler.global_batch(0), GlobalSampler(num_samples=100, batch_size=100, seed=0).global_batch(0))


def test_the_last_batch_of_an_epoch_may_be_short():
    sampler = GlobalSampler(num_samples=10, batch_size=4, seed=0)
    assert [len(sampler.global_batch(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_another_thread_that_asks_for_the_next_epoch_in_between_changes_no_batch():
    sampler = GlobalSampler(num_samples=20, batch_size=10, seed=0)
    expected = sampler.global_batch(0)

    class Interrupted(tuple):
        """The order that is kept; whoever looks which epoch's it is loses the processor to another thread."""

        def __getitem__(self, index):
            if index == 0 and sampler._permutation is self:
                sampler._permutation = (1, torch.randperm(20))
            return super().__getitem__(index)

    assert sampler._permutation is not None
    sampler._permutation = Interrupted(sampler._permutation)
    assert torch.equal(sampler.global_batch(0), expected)
