"""When workers talk to each other beside the optimizer."""

from dataclasses import replace

import pytest

import adamesh
from adamesh.train.config import RunConfig
from adamesh.train.settings import PlanSettings
from adamesh.train.untold import meets_after
from tests.unit.train.test_trainer import curve, trained

ALONE = {
    "every-step": (adamesh.EveryStep(), [True] * 8),
    "stale-1": (adamesh.Stale(1), [True] * 8),
    "every-3": (adamesh.EveryH(3), [False, False, True, False, False, True, False, True]),
    "diloco-6-delay-2": (adamesh.DiLoCo(6, delay=2), [False] * 5 + [True, False, True]),
}


@pytest.mark.parametrize(("sync", "expected"), ALONE.values(), ids=ALONE)
def test_workers_talk_when_islands_do_and_every_eighth_step(sync, expected):
    assert [meets_after(sync, step) for step in range(8)] == expected


def test_a_step_that_nobody_was_told_of_is_in_the_metrics_all_the_same(tmp_path):
    told = RunConfig(task="regression", batch_size=100, eval_every=5, checkpoint_every=7, steps=11)
    untold = replace(told, plan=PlanSettings(sync="every-3"))
    (summary, _), (expected, _) = (trained(tmp_path / name, c) for name, c in (("untold", untold), ("told", told)))
    assert curve(tmp_path / "untold") == curve(tmp_path / "told")  # one island: the same steps to the bit
    assert (summary.steps, summary.samples) == (expected.steps, expected.samples)
