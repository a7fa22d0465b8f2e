"""Fleets: the same for the same seed, the closed forms where there are some, and worse where something is worse."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.cost.simulate import Fleet, Pace, simulate

ROUGH = Fleet(64, spread=0.1, jitter=0.1, mtbf_s=20_000.0)


@given(st.integers(1, 5000), st.floats(1e-4, 10), st.floats(0, 10), st.integers(1, 64), st.integers(1, 20))
def test_without_stragglers_and_failures_it_is_the_closed_form(workers, work_s, exposed_s, h, rounds):
    found = simulate(Fleet(workers), Pace(work_s, exposed_s, h), rounds)
    assert found.seconds == pytest.approx(rounds * (h * work_s + exposed_s))
    assert found.steps == rounds * h
    assert found.failures == found.repeated_steps == 0
    assert found.waited_share == 0.0


@pytest.mark.parametrize(
    "pace", [Pace(1.0, 0.1), Pace(1.0, 0.1, 8, redundant=True), Pace(1.0, 0.1, asynchronous=True)], ids=str
)
def test_a_seed_tells_everything(pace):
    assert simulate(ROUGH, pace, 200, seed=1) == simulate(ROUGH, pace, 200, seed=1)
    assert simulate(ROUGH, pace, 200, seed=1) != simulate(ROUGH, pace, 200, seed=2)


def test_jitter_costs_the_mean_of_the_largest():
    workers, jitter, rounds = 256, 0.2, 500
    found = simulate(Fleet(workers, jitter=jitter), Pace(1.0, 0.0), rounds)
    draws = np.random.default_rng(7).standard_normal((4000, workers))
    expected = np.exp(jitter * draws).max(axis=1).mean()
    assert found.seconds / rounds == pytest.approx(expected, rel=0.02)


def test_failures_with_checkpoints_cost_what_young_and_daly_say():
    checkpoint_s, restart_s, mean_s = 200.0, 50.0, 5_000.0
    fleet = Fleet(10, mtbf_s=10 * mean_s, restart_s=restart_s)
    found = simulate(fleet, Pace(20.0, 0.0, checkpoint_s=checkpoint_s), 20_000)
    slower = found.seconds / (20.0 * found.steps)
    daly = math.exp(restart_s / mean_s) * math.expm1(checkpoint_s / mean_s) * mean_s / checkpoint_s
    assert slower - 1 == pytest.approx(daly - 1, rel=0.3)  # of some eighty failures


def test_copies_of_state_lose_less_than_checkpoints_do():
    plain, copies = (simulate(ROUGH, Pace(1.0, 0.1, redundant=r), 5000) for r in (False, True))
    assert copies.failures > 0
    assert plain.failures > 0
    assert copies.repeated_steps <= copies.failures
    assert copies.seconds < plain.seconds


def test_agreeing_rarely_waits_less_for_jitter_and_asynchronous_workers_for_nobody():
    fleet = Fleet(128, jitter=0.3)
    each, rarely = (simulate(fleet, Pace(1.0, 0.0, h), 512 // h) for h in (1, 32))
    assert rarely.seconds < each.seconds
    assert rarely.waited_share < each.waited_share
    alone = simulate(Fleet(128, spread=0.3), Pace(1.0, 0.0, asynchronous=True), 512)
    assert alone.waited_share == 0.0
    assert alone.seconds < simulate(Fleet(128, spread=0.3), Pace(1.0, 0.0), 512).seconds


def test_thousands_of_workers_take_a_moment():
    found = simulate(Fleet(8192, spread=0.05, jitter=0.05, mtbf_s=1e6), Pace(0.1, 0.02, redundant=True), 1000)
    assert found.steps == 1000
    assert found.failures > 0
