"""The verdict on a learning rate, on curves whose right answer is known."""

import io
import json
import math
import random
from dataclasses import replace
from datetime import datetime

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from adamesh.errors import ConfigurationError
from adamesh.guard import Guard
from adamesh.train.folder import begin_run
from adamesh.train.settings import OptimSettings, PlanSettings, RunConfig
from adamesh.tune.rate import climb
from adamesh.tune.rate.climb import read_curves, rising
from adamesh.tune.rate.curve import Curve, Look, between_seeds, noise_of, smoothed
from adamesh.tune.rate.pairing import mismatched
from adamesh.tune.rate.report import plot, print_verdict, write_record
from adamesh.tune.rate.search import Search
from adamesh.tune.rate.verdict import judge, rounded

RATES = rising(1e-5, 100.0, 211)
START, FLOOR = 2.3, 0.3


def falling(falls_at=1e-3, breaks_at=0.3, noise=0.03, seed=0, gap=1.0, scale=1.0, shift=0.0, rates=RATES):
    """The loss is halfway down at ``falls_at``, and halfway up again at ``breaks_at``."""
    draw = random.Random(seed)
    losses = []
    for rate in rates:
        low = FLOOR + (START - FLOOR) / (1 + (rate / falls_at) ** 1.5)
        loss = low + (START - FLOOR) / 2 * (rate / breaks_at) ** 3 + draw.gauss(0, noise)
        losses.append(scale * loss + shift)
        if loss > 2 * START:
            break
    looks = [Look(step, 1.0, 1.0 + gap + draw.gauss(0, 0.1)) for step in range(4, len(losses), 5)]
    return Curve(seed, rates, losses, looks)


def flat(noise, seed=0):
    draw = random.Random(seed)
    return Curve(seed, RATES, [START + draw.gauss(0, noise) for _ in RATES], [])


@given(falls_at=st.floats(1e-4, 3e-3), ratio=st.floats(50, 300), noise=st.floats(0, 0.1), seed=st.integers(0, 99))
def test_the_middle_of_the_lowest_place_and_a_tenth_of_where_half_is_lost_is_suggested(falls_at, ratio, noise, seed):
    verdict = judge([falling(falls_at, falls_at * ratio, noise, seed)])
    assert verdict.rate is not None
    assert verdict.marks is not None
    assert verdict.marks.broken_at is not None
    lowest, broken = verdict.rates[verdict.marks.lowest_at], verdict.rates[verdict.marks.broken_at]
    assert 1 / 1.7 < broken / (falls_at * ratio) < 1.7
    assert verdict.rate == rounded((lowest * broken / 10) ** 0.5)
    assert verdict.remedy == ""


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100), seed=st.integers(0, 20))
def test_the_unit_of_the_loss_does_not_matter(scale, shift, seed):
    assert judge([falling(seed=seed, scale=scale, shift=shift)]).rate == judge([falling(seed=seed)]).rate


def test_noise_alone_is_hardly_ever_taken_for_a_fall():
    verdicts = [judge([flat(0.1, seed)]) for seed in range(300)]
    taken = [v for v in verdicts if not v.reason.startswith("the loss does not fall beyond its noise")]
    assert len(taken) <= 9  # one in a hundred, and three standard deviations of that
    assert all(v.rate is None for v in verdicts if v not in taken)


def test_a_loss_that_does_not_change_is_no_suggestion():
    verdict = judge([flat(0.0)])
    assert verdict.rate is None
    assert "does not fall" in verdict.reason


def test_a_fall_without_anything_learnt_of_the_inputs_is_no_suggestion():
    verdict = judge([falling(gap=0.0)])
    assert verdict.rate is None
    assert "nothing is learnt of the inputs" in verdict.reason


def test_where_batches_have_no_pairs_the_loss_alone_decides():
    verdict = judge([replace(falling(), looks=[])])
    assert verdict.rate == rounded(0.03)
    assert verdict.learnt is None


def test_a_loss_that_does_not_rise_again_asks_for_a_higher_end():
    verdict = judge([falling(breaks_at=1e4)])
    assert verdict.rate is None
    assert "--highest 1e+05" in verdict.remedy


def test_a_curve_that_breaks_down_at_once_asks_for_a_lower_begin():
    verdict = judge([replace(falling(), losses=[2.0, 3.0, 9.0], looks=[])])
    assert verdict.rate is None
    assert "--lowest 1e-08" in verdict.remedy


def test_seeds_that_do_not_agree_are_no_suggestion_and_are_named():
    verdict = judge([falling(breaks_at=0.05), falling(breaks_at=3.0, seed=1)])
    assert verdict.rate is None
    assert "seeds do not agree" in verdict.reason
    assert set(verdict.by_seed) == {0, 1}


@given(explosion=st.floats(10, 1e30))
def test_how_high_the_loss_explodes_does_not_matter(explosion):
    curve = falling(noise=0.0)

    def exploding(height):
        behind = [rate > 0.3 for rate, _ in zip(curve.rates, curve.losses, strict=False)]
        return replace(curve, losses=[height if b else loss for b, loss in zip(behind, curve.losses, strict=True)])

    assert judge([exploding(explosion)]).rate == judge([exploding(10.0)]).rate is not None


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=50), width=st.floats(1, 10))
def test_smoothing_has_no_direction_and_keeps_what_is_constant(values, width):
    assert smoothed(values[::-1], width) == pytest.approx(smoothed(values, width)[::-1], abs=1e-9)
    assert smoothed([values[0]] * len(values), width) == pytest.approx([values[0]] * len(values))
    assert min(values) - 1e-9 <= min(smoothed(values, width)) <= max(values) + 1e-9


@given(sigma=st.floats(1e-3, 10), seed=st.integers(0, 50))
def test_noise_is_told_from_a_trend_and_from_jumps(sigma, seed):
    draw = random.Random(seed)
    values = [0.01 * sigma * step + draw.gauss(0, sigma) for step in range(400)]
    values[100] = 1e9
    assert noise_of(values) == pytest.approx(sigma, rel=0.25)


def test_between_seeds_is_their_median_until_half_of_them_have_ended():
    curves = [
        Curve(seed, RATES, losses, []) for seed, losses in enumerate([[1.0, 2.0, 9.0], [3.0, 4.0], [2.0, 9.0, 1.0]])
    ]
    assert between_seeds(curves) == [2.0, 4.0, 9.0]
    assert between_seeds(curves[:2]) == [2.0, 3.0]


@given(rate=st.floats(1e-12, 1e12))
def test_a_rounded_rate_is_near_and_stays_when_rounded_again(rate):
    assert abs(math.log10(rounded(rate) / rate)) <= math.log10(5 / 3) / 2 + 1e-9  # from 3 to 5 it is farthest
    assert rounded(rounded(rate)) == rounded(rate)


def test_mismatched_pairs_have_inputs_of_others_where_a_batch_has_parts():
    here, there, targets = torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0, 1])
    inputs, kept = mismatched((here, targets), (there, targets)) or (None, None)
    assert inputs is there
    assert kept is targets
    assert mismatched({"x": here, "y": targets}, {"x": there, "y": targets}) == {"x": there, "y": targets}
    assert mismatched(here, there) is None
    assert mismatched((here, targets), (torch.ones(2, 4), targets)) is None
    assert mismatched((here,), (there,)) is None


def test_a_search_makes_a_run_that_only_climbs():
    config = RunConfig(
        task="regression", epochs=3, plan=PlanSettings(guard=True), guard=Guard(threshold=9), elastic="1:4"
    )
    search = Search.of(config, None, 1.0, 30, 2)
    climbing = search.configured(config)
    assert (search.lowest, search.steps, climbing.steps, climbing.optim.lr) == (1e-5, 151, 151, 1e-5)
    assert (climbing.elastic, climbing.plan.guard, climbing.epochs) == (None, False, None)


@pytest.mark.parametrize(
    ("lowest", "highest", "per_decade", "seeds", "said"),
    [
        (1e-3, 5e-3, 30, 1, "at least a decade apart"),
        (-1.0, None, 30, 1, "must be above 0"),
        (None, None, 5, 1, "--steps-per-decade 5: must be at least"),
        (None, None, 30, 0, "--seeds 0: must be at least 1"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(lowest, highest, per_decade, seeds, said):
    with pytest.raises(ConfigurationError, match=said):
        Search.of(RunConfig(), lowest, highest, per_decade, seeds)


def test_workers_without_common_steps_are_refused():
    with pytest.raises(ConfigurationError, match="no steps in common"):
        Search.of(RunConfig(), None, None, 30, 1).configured(RunConfig(plan=PlanSettings(sync="async-8")))


def test_a_climb_leaves_a_curve_for_each_seed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    config = RunConfig(task="regression", nproc=1, steps=25, out=tmp_path / "found", optim=OptimSettings(lr=1e-3))
    folder = begin_run(config, 1, datetime(2026, 1, 1))
    assert climb.main([str(folder), "1.0", "2"]) == 0
    curves = read_curves(folder)
    assert [curve.seed for curve in curves] == [0, 1]
    assert curves[0].rates[-1] == pytest.approx(1.0)
    assert curves[0].losses[-1] < curves[0].losses[0]
    assert curves[0].losses != curves[1].losses
    assert curves[0].looks[-1].mismatched > curves[0].looks[-1].loss
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml", "curves.json", "logs"]


def test_the_report_is_a_sketch_a_strict_record_and_a_picture(tmp_path):
    curves = [falling(seed=seed) for seed in (0, 1)]
    verdict = judge(curves)
    console = Console(width=80, record=True, file=io.StringIO())
    print_verdict(console, verdict)
    text = console.export_text()
    for fragment in ("← suggested", "suggested: 0.03, because the loss falls from 2.", "each seed alone: seed 0 0.03"):
        assert fragment in text, fragment
    assert max(map(len, text.split("each seed")[0].splitlines())) <= 80
    write_record(verdict, curves, {"task": "x"}, tmp_path / "find-lr.json")
    record = json.loads((tmp_path / "find-lr.json").read_text(), parse_constant=pytest.fail)
    assert (record["lr"], record["task"], len(record["curves"])) == (0.03, "x", 2)
    assert plot(verdict, curves, "title", tmp_path / "plot.png").startswith("plot in")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_unsure_is_said_with_what_to_try():
    verdict = judge([flat(0.1)])
    console = Console(width=80, record=True, file=io.StringIO())
    print_verdict(console, verdict)
    text = console.export_text()
    assert "unsure: the loss does not fall beyond its noise" in text
    assert "--batch-size" in text
