"""What a run does about steps that its guard refuses. Several workers: tests/integration/test_guard.py."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nan, nn

import adamesh
from adamesh.data.sampler import GlobalSampler
from adamesh.errors import ConfigurationError, Diverged
from adamesh.tasks.regression import Regression
from adamesh.train.config import PlanSettings, RunConfig, load_config, write_config
from adamesh.train.guarding import elsewhere
from adamesh.train.snapshot import Snapshot
from tests.unit.train.test_trainer import SHORT, curve, same_bits, trained

GUARDED = replace(SHORT, plan=PlanSettings(guard=True), guard=adamesh.Guard(snapshot_every=5, skips=2, rollbacks=2))


class Bad(Regression):
    """Some evaluations, counted from 1, give what nobody can use."""

    def __init__(self, evaluations):
        self.calls, self.evaluations = 0, evaluations

    def loss(self, model, batch):
        self.calls += model.training
        loss = super().loss(model, batch)
        return loss * nan if model.training and self.calls in self.evaluations else loss


def events(summary):
    return [(event.kind, event.step) for event in summary.events]


def test_a_fault_that_does_not_repeat_leaves_no_trace_in_the_model(tmp_path):
    summary, model = trained(tmp_path / "bad", GUARDED, Bad({8}))
    _, expected = trained(tmp_path / "good", GUARDED)
    assert events(summary) == [("bad-hardware", 8)]
    assert same_bits(model, expected)
    assert curve(tmp_path / "bad") == curve(tmp_path / "good")


def test_bad_samples_are_named_and_passed_over(tmp_path):
    summary, _ = trained(tmp_path / "run", GUARDED, Bad({8, 9}))
    assert events(summary) == [("skip", 8)]
    first = GlobalSampler(1024, 100, 0).global_batch(7)[0]
    assert f"samples {first}, " in summary.events[0].message
    assert (summary.steps, summary.stopped) == (25, "finished")
    assert [loss for step, loss in curve(tmp_path / "run")[0] if step == 8] == [curve(tmp_path / "run")[0][6][1]]


def test_several_bad_steps_in_a_row_lead_back_to_the_snapshot(tmp_path):
    summary, _ = trained(tmp_path / "run", GUARDED, Bad(range(8, 12)))
    assert events(summary) == [("skip", 8), ("skip", 9), ("rollback", 9)]
    assert "back to the state of step 5" in summary.events[-1].message
    assert summary.stopped == "finished"


def test_a_run_that_cannot_go_on_says_what_was_seen_where_and_what_to_try(tmp_path):
    with pytest.raises(Diverged, match=r"after 2 rollbacks; the last, step 13: gradient norm nan .*optim\.lr"):
        trained(tmp_path / "run", GUARDED, Bad(range(8, 1000)))


def test_a_snapshot_brings_everything_back_as_often_as_wanted():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    wire = adamesh.Wire(up=adamesh.Feedback(adamesh.Int4()), down=adamesh.Int8())
    optimizer = adamesh.AdamW(model.named_parameters(), lr=0.1, plan=adamesh.Plan(wire=wire))

    def train():
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.arange(12.0).view(4, 3)).square().sum().backward()
            optimizer.step()
        return [tensor.clone() for tensor in model.state_dict().values()]

    train()
    snapshot = Snapshot(3, model, optimizer)
    first = train()
    for _ in range(2):
        snapshot.restore()
        assert all(map(torch.equal, train(), first))


@given(st.integers(2, 6).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_no_suspect_computes_its_own_share_and_every_share_is_computed_once(case):
    size, suspects = case
    shares = elsewhere(tuple(sorted(suspects)), size)
    assert sorted(share for own in shares for share in own) == list(range(size))
    assert not any(suspect in shares[suspect] for suspect in suspects)


def test_settings_of_the_guard_go_through_the_file(tmp_path):
    write_config(GUARDED, tmp_path / "config.toml")
    assert load_config(tmp_path / "config.toml") == GUARDED


def test_settings_of_a_guard_that_is_off_are_refused():
    with pytest.raises(ConfigurationError, match=r"set plan\.guard = true"):
        RunConfig(guard=adamesh.Guard(skips=2))
