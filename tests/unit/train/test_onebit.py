"""A run of 1-bit Adam says when it froze, and goes on as frozen as it was; or says that it did not."""

import json
from dataclasses import replace

import pytest

from adamesh.errors import ConfigurationError
from adamesh.train.config import OptimSettings, ScheduleSettings
from adamesh.train.events import read_events
from tests.unit.train.test_trainer import SHORT, same_bits, trained

CONSTANT = ScheduleSettings(kind="constant", warmup_steps=0)
FIXED = replace(SHORT, optim=OptimSettings("onebit-adam", freeze_at=7), schedule=CONSTANT)


def steps(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_metrics_events_and_summary_say_when_it_froze(tmp_path):
    summary, _ = trained(tmp_path, FIXED)
    assert [line.get("frozen_after") for line in steps(tmp_path)] == [None] * 6 + [7] * 19
    assert [(event.step, event.kind) for event in read_events(tmp_path / "events.jsonl")] == [(7, "frozen")]
    assert summary.frozen_after == 7
    assert ("frozen after", "7 updates") in summary.rows()


@pytest.mark.parametrize("stop", [5, 10])
def test_a_resumed_run_freezes_once_and_ends_the_same(stop, tmp_path):
    _, model = trained(tmp_path / "whole", FIXED)
    trained(tmp_path / "cut", replace(FIXED, steps=stop))
    summary, again = trained(tmp_path / "cut", FIXED, resume=True)
    assert same_bits(again, model)
    assert [event.step for event in summary.events if event.kind == "frozen"] == [7]


def test_a_run_that_never_froze_says_so(tmp_path):
    summary, _ = trained(tmp_path, replace(FIXED, optim=OptimSettings("onebit-adam", betas=(0.9, 0.99))))
    assert summary.frozen_after is None
    assert [event.kind for event in summary.events] == ["not-frozen"]


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigurationError, match=r"optim.freeze_at = 7: belongs to onebit-adam"):
        OptimSettings("adamw", freeze_at=7)
    with pytest.raises(ConfigurationError, match=r"optim.amsgrad = True: belongs to adamw, adam"):
        OptimSettings("onebit-adam", amsgrad=True)
    with pytest.raises(ConfigurationError, match=r"the second must be at least 0.9"):
        OptimSettings("onebit-adam", betas=(0.9, 0.5))
