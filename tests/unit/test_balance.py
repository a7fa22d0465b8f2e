import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.data.sampler import weighted_shares
from adamesh.data.shares import Shares
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.membership.balance import Balancer, Pace, fastest_split
from adamesh.plan import Plan
from adamesh.sync.asynchronous import Async
from adamesh.sync.diloco import DiLoCo
from adamesh.sync.every_h import EveryH
from adamesh.sync.stale import Stale


def pace(per_sample: float, fixed: float = 0.0) -> Pace:
    known = Pace()
    known.per_sample, known.fixed = per_sample, fixed
    return known


def paced(balancer: Balancer, steps: int, speeds, fixed_s: float = 0.0, noise=lambda: 1.0) -> int:
    """Let workers of these samples per second make steps; returns how often the split changed."""
    changes = 0
    for _ in range(steps):
        before = list(balancer.counts)
        times = [(fixed_s + n / speed) * noise() for n, speed in zip(before, speeds, strict=True)]
        balancer.observe(before, times)
        changes += before != balancer.counts
    return changes


@given(st.integers(0, 500), st.lists(st.integers(0, 50), min_size=1, max_size=9).filter(any))
def test_weighted_shares_add_up_and_are_within_one_of_exact(count, weights):
    parts = weighted_shares(count, weights)
    assert sum(parts) == count
    assert all(abs(part - count * weight / sum(weights)) < 1 for part, weight in zip(parts, weights, strict=True))
    assert weighted_shares(sum(weights), weights) == weights


@given(
    st.integers(0, 14),
    st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 4)), min_size=1, max_size=3),
    st.integers(0, 3),
    st.integers(0, 10),
)
def test_no_split_within_the_bounds_is_faster(total, workers, least, room):
    paces = [pace(*worker) for worker in workers]
    most = least + room
    splits = [s for s in itertools.product(range(least, most + 1), repeat=len(paces)) if sum(s) == total]
    if not splits:
        return
    found = fastest_split(total, paces, least, most)
    assert tuple(found) in splits

    def slowest(split):
        return max(p.seconds(n) for p, n in zip(paces, split, strict=True))

    assert slowest(found) <= slowest(min(splits, key=slowest)) * (1 + 1e-12)


@pytest.mark.parametrize("fixed_s", [0.0, 0.01])
def test_three_steps_after_the_start_and_after_a_change_the_split_is_that_of_the_speeds(fixed_s):
    balancer = Balancer(64, 2)
    paced(balancer, 3, [1000, 1000], fixed_s)
    assert balancer.counts == [32, 32]
    paced(balancer, 2, [1000, 1000 / 3], 0.0)  # the third step has the new split
    assert balancer.counts == [48, 16]
    paced(balancer, 2, [1000 / 3, 1000], 0.0)
    assert balancer.counts == [16, 48]


def test_what_a_step_takes_whatever_the_share_is_found_out():
    balancer = Balancer(120, 2)
    paced(balancer, 12, [1000, 250], fixed_s=0.02)
    # 0.02 + n/1000 = 0.02 + (120 - n)/250
    assert balancer.counts == [96, 24]
    assert balancer._paces[0].fixed == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize("speeds", [[1000] * 4, [1000, 900, 500, 300]])
def test_noise_and_single_slow_steps_do_not_make_the_split_flap(speeds):
    dice, calls = random.Random(0), itertools.count()

    def noise():
        # Four workers: every 91st number is another one's, and no worker's next step's.
        return dice.lognormvariate(0, 0.05) * (3.0 if next(calls) % 91 == 90 else 1.0)

    changes, ideal = 0, 256 / sum(speeds)
    for _ in range(5):
        balancer = Balancer(256, 4)
        paced(balancer, 20, speeds, 0.0, noise)
        changes += paced(balancer, 500, speeds, 0.0, noise)
        assert max(n / speed for n, speed in zip(balancer.counts, speeds, strict=True)) < 1.06 * ideal
    assert changes <= 10  # one in 250 steps


def test_nobody_gets_more_than_fits_and_nobody_too_little_to_be_measured():
    capped = Balancer(64, 2, most=40)
    paced(capped, 4, [1000, 10])
    assert capped.counts == [40, 24]
    probing = Balancer(320, 2)
    paced(probing, 4, [1000, 1])
    assert probing.counts == [310, 10]
    paced(probing, 3, [1000, 1000])
    assert probing.counts == [160, 160]


def test_where_all_together_could_not_take_the_batch_shares_are_equal():
    assert Balancer(64, 2, most=20).counts == [32, 32]
    late = Balancer(64, 2, most=20)
    paced(late, 4, [1000, 100])
    assert late.counts == [32, 32]


def test_more_workers_than_samples_can_be_balanced():
    balancer = Balancer(2, 3)
    paced(balancer, 4, [1000, 1000, 1000])
    assert sum(balancer.counts) == 2


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 20), st.randoms(use_true_random=False))
def test_shares_cover_every_batch_once_whatever_was_observed(batch_size, num_workers, steps, dice):
    shares = Shares(batch_size, num_workers, balance=True)
    twin = Shares(batch_size, num_workers, balance=True)
    for _ in range(steps):
        total = dice.randint(1, batch_size)
        times = [dice.random() for _ in range(num_workers)]
        shares.observe(total, times)
        twin.observe(total, times)
    for total in (batch_size, 1):
        spans = [shares.span(total, rank) for rank in range(num_workers)]
        assert [stop for _, stop in spans] == [*[start for start, _ in spans[1:]], total]
        assert spans == [twin.span(total, rank) for rank in range(num_workers)]


def test_a_limit_below_one_is_refused():
    with pytest.raises(ConfigurationError, match="most_samples=0"):
        Balancer(8, 2, most=0)


@pytest.mark.parametrize(
    ("sync", "why"),
    [(Async(), "at its own speed"), (EveryH(4), "averaged as equals"), (DiLoCo(8), "averaged as equals")],
)
def test_where_no_mean_of_gradients_travels_balance_is_refused(sync, why):
    with pytest.raises(IncompatiblePlan, match=f"balance=True with sync=.*{why}"):
        Plan(sync=sync, balance=True)
    assert Plan(sync=Stale(1), balance=True).balance
