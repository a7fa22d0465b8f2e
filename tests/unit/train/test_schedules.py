from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from adamesh.train.schedules import lr_factor
from adamesh.train.settings import ScheduleSettings

settings = st.builds(
    ScheduleSettings,
    kind=st.sampled_from(["constant", "cosine", "linear", "step"]),
    warmup_steps=st.integers(0, 60),
    final_factor=st.floats(0, 1),
)


@given(settings, st.integers(1, 100))
def test_every_factor_is_a_share_of_the_initial_rate_and_the_first_is_above_zero(settings, total_steps):
    factors = [lr_factor(settings, step, total_steps) for step in range(total_steps + 5)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0


@given(settings, st.integers(1, 100))
def test_rates_rise_during_warm_up_and_never_after_it(settings, total_steps):
    warmup = settings.warmup_steps
    factors = [lr_factor(settings, step, total_steps) for step in range(warmup + total_steps)]
    assert all(before < after for before, after in pairwise(factors[: warmup + 1]))
    assert factors[warmup] == pytest.approx(1)
    assert all(before >= after - 1e-12 for before, after in pairwise(factors[warmup:]))


def test_a_cosine_passes_the_middle_half_way_and_ends_at_its_final_factor():
    cosine = ScheduleSettings(kind="cosine", warmup_steps=10, final_factor=0.2)
    assert lr_factor(cosine, 60, total_steps=110) == pytest.approx(0.6)
    assert lr_factor(cosine, 110, total_steps=110) == pytest.approx(0.2)
    assert lr_factor(cosine, 10_000, total_steps=110) == pytest.approx(0.2)


def test_a_constant_without_warm_up_is_one():
    assert {lr_factor(ScheduleSettings(kind="constant"), step, 5) for step in range(5)} == {1.0}


@pytest.mark.parametrize(
    ("settings", "build"),
    [
        (ScheduleSettings("cosine", final_factor=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.2)),
        (ScheduleSettings("linear", final_factor=0.1), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 40)),
        (ScheduleSettings("step", step_every=7, step_factor=0.5), lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
        (ScheduleSettings("one-cycle"), lambda o: lr_scheduler.OneCycleLR(o, 2.0, 40, cycle_momentum=False)),
        (
            ScheduleSettings("one-cycle", warmup_steps=20),
            lambda o: lr_scheduler.OneCycleLR(o, 2.0, 40, pct_start=0.5, cycle_momentum=False),
        ),
    ],
)
def test_a_schedule_is_torchs_of_the_same_name(settings, build):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    theirs = build(optimizer)
    for step in range(40):
        assert 2.0 * lr_factor(settings, step, 40) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        if step < 39:
            theirs.step()
