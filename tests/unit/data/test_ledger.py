import json

import torch
from hypothesis import given
from hypothesis import strategies as st

from adamesh.data.ledger import Ledger, Tally, expected, tally
from adamesh.data.sampler import GlobalSampler, weighted_shares

samplers = st.builds(
    GlobalSampler, num_samples=st.integers(2, 70), batch_size=st.integers(2, 20), seed=st.integers(0, 2**63 - 1)
)


def summed(tallies) -> Tally:
    """As the trainer adds them up over workers."""
    limbs = [one.limbs() for one in tallies]
    return Tally.of_limbs(map(sum, zip(*limbs, strict=True)))


@given(samplers, st.integers(0, 12), st.data())
def test_the_ledger_is_that_of_a_fault_free_run_whoever_used_the_samples(sampler, steps, data):
    ledger = Ledger()
    for step in range(steps):
        batch = sampler.global_batch(step)
        weights = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any))
        parts = batch.split(weighted_shares(len(batch), weights))
        ledger = ledger.after(summed([tally(step, part.flip(0)) for part in parts]))
    assert ledger == expected(sampler, steps)
    assert ledger.samples == sampler.seen(steps)


@given(samplers, st.integers(0, 20), st.data())
def test_a_sample_that_is_lost_repeated_or_replaced_changes_the_digest(sampler, step, data):
    batch = sampler.global_batch(step)
    place = data.draw(st.integers(0, len(batch) - 1))
    other = batch.clone()
    other[place] = (other[place] + data.draw(st.integers(1, sampler.num_samples - 1))) % sampler.num_samples
    lost, repeated = torch.cat([batch[:place], batch[place + 1 :]]), torch.cat([batch, batch[place : place + 1]])
    digests = [tally(step, indices).digest for indices in (batch, lost, repeated, other)]
    assert len(set(digests)) == 4


@given(samplers, st.integers(0, 20), st.integers(1, 20), st.data())
def test_samples_that_are_swapped_between_steps_change_the_digest(sampler, step, later, data):
    first, second = sampler.global_batch(step).clone(), sampler.global_batch(step + later).clone()
    before = tally(step, first) + tally(step + later, second)
    a, b = data.draw(st.integers(0, len(first) - 1)), data.draw(st.integers(0, len(second) - 1))
    one, other = int(first[a]), int(second[b])
    first[a], second[b] = other, one
    after = tally(step, first) + tally(step + later, second)
    assert (after == before) == (one == other)


def test_a_step_and_a_sample_do_not_trade_places():
    assert tally(3, torch.tensor([5])) != tally(5, torch.tensor([3]))


def test_sums_over_workers_are_exact_however_large_the_digests_are():
    largest = Tally(2**31, 2**64 - 1)
    assert summed([largest] * 1000) == Tally(1000 * 2**31, -1000 % 2**64)


@given(st.builds(Ledger, st.integers(0, 2**40), st.integers(0, 2**50), st.integers(0, 2**64 - 1)))
def test_a_saved_ledger_is_read_back_from_json(ledger):
    assert Ledger.restored(json.loads(json.dumps(ledger.saved()))) == ledger
