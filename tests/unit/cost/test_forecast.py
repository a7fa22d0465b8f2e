"""Advice: the least invasive of the fast ones, never one that does not fit, and a reason."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.cost.candidates import Candidate, Effect, candidates
from adamesh.cost.forecast import Forecast, Nearby, advise, forecast, skew_s
from adamesh.cost.links import Link
from adamesh.cost.network import Links, Timing
from adamesh.cost.rehearse import Memory, Rehearsed, StepKind
from adamesh.cost.trace import Event, Trace
from adamesh.tasks.catalog import find_task
from adamesh.train.config import PlanSettings, RunConfig, resolved

DIGITS = resolved(RunConfig(), find_task("digits"))


def priced(name, effect, step_s, *, peak=100, fits=True, for_safety=False):
    memory = Memory(0, 0, 0, 0, 0, 0, peak)
    rehearsed = Rehearsed((), (), (), 1, 1, memory)
    candidate = Candidate(name, PlanSettings(), effect, for_safety)
    return Forecast(candidate, rehearsed, Timing(step_s, step_s, 0.0, 0.0), 0.0, 1 / step_s, fits, step_s)


def test_what_changes_less_wins_unless_it_is_slower_by_more_than_a_twentieth():
    exact, coded, rare = (priced(e.name, e, s) for e, s in zip(Effect, (1.04, 1.0, 1.02), strict=True))
    assert advise([exact, coded, rare]).chosen == exact
    slow = priced("slow", Effect.EXACT, 1.2)
    assert advise([slow, coded, rare]).chosen == coded
    assert advise([slow, coded, rare]).exact == slow


def test_what_does_not_fit_is_not_advised_and_none_is_if_none_does():
    small, large = priced("small", Effect.RARE, 2.0), priced("large", Effect.EXACT, 1.0, fits=False)
    assert advise([small, large]).chosen == small
    nothing = advise([large])
    assert nothing.chosen is None
    assert "needs" in nothing.reason


def test_who_must_agree_in_every_step_is_not_told_to_step_alone():
    exact, rare = priced("exact", Effect.EXACT, 9.0), priced("rare", Effect.RARE, 1.0)
    assert advise([exact, rare]).chosen == rare
    assert advise([exact, rare], every_step=True).chosen == exact


def test_copies_for_safety_are_nobodys_fastest_plan():
    exact, copies = priced("exact", Effect.EXACT, 1.0), priced("copies", Effect.EXACT, 0.5, for_safety=True)
    assert advise([exact, copies]).chosen == exact


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=50), st.integers(1, 1000))
def test_more_workers_are_never_less_late(works, world):
    assert skew_s(works, 1) == 0.0
    assert 0.0 <= skew_s(works, world) <= skew_s(works, world + 1) <= max(works)


@pytest.mark.parametrize(("world", "per_host"), [(1, 1), (2, 1), (6, 3), (8, 8), (16, 4)])
def test_every_candidate_is_sound_and_has_a_name_of_its_own(world, per_host):
    found = candidates(DIGITS, world, per_host)
    assert len({c.name for c in found}) == len(found)
    assert found[0].name == "exact"
    assert any("islands" in c.options for c in found) == (1 < per_host < world)


def test_what_the_configuration_asks_for_is_among_them():
    config = replace(DIGITS, plan=PlanSettings(up="topk-0.01", sync="every-step"))
    assert [c.settings for c in candidates(config, 4) if c.name == "as configured"] == [config.plan]


def test_where_workers_trained_together_only_the_links_part_is_foretold():
    trace = Trace((Event("swap", 0.01, 1, "world", 1_000_000, 1),), 0.0)
    kinds = (StepKind(trace, 1_000_000, 0, 0),)
    rehearsed = Rehearsed((0,), kinds, (), 1, 1)
    near, far = (Link("l", rate, 0.0, message_s=0.0) for rate in (1e9, 1e7))
    candidate = Candidate("exact", PlanSettings(), Effect.EXACT)

    def step_s(link):
        nearby, links = Nearby(0.05, near), Links(link, link)
        return forecast(candidate, rehearsed, links, world=2, batch_size=1, device_bytes=None, nearby=nearby).step_s

    assert step_s(near) == pytest.approx(0.05)
    assert step_s(far) == pytest.approx(0.05 + 0.1 - 0.001)
