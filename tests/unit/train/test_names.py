from dataclasses import replace

import pytest
import torch

import adamesh
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.train.names import build_schedule, build_wire, check_plan
from adamesh.train.settings import OptimSettings, PlanSettings, RunConfig

NAMES = {
    "exact": (None, None),
    "bf16": (adamesh.Cast(torch.bfloat16),) * 2,
    "fp16": (adamesh.Cast(torch.float16),) * 2,
    "int8": (adamesh.Int8(),) * 2,
    "int4": (adamesh.Feedback(adamesh.Int4()), adamesh.Int4()),
    "int2": (adamesh.Feedback(adamesh.Int2()), adamesh.Int2()),
    "sign": (adamesh.Feedback(adamesh.Sign()), adamesh.Sign()),
    "topk-0.05": (adamesh.Feedback(adamesh.TopK(density=0.05)), adamesh.TopK(density=0.05)),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_codec_s_name_means_feedback_where_it_is_needed_and_none_on_the_way_down(name):
    up, down = NAMES[name]
    assert build_wire(PlanSettings(up=name, down=name, across=name)) == adamesh.Wire(up=up, down=down, across=up)


def test_low_rank_goes_up():
    assert build_wire(PlanSettings(up="lowrank-3")) == adamesh.Wire(up=adamesh.LowRank(3))


def test_exact_steps_are_a_warm_up_of_everything_that_is_coded():
    wire = build_wire(PlanSettings(up="int4", down="int8", exact_steps=5))
    up, down = adamesh.Feedback(adamesh.Int4()), adamesh.Int8()
    assert wire == adamesh.Wire(up=adamesh.Warmup(up, 5), down=adamesh.Warmup(down, 5))


@pytest.mark.parametrize(
    ("settings", "schedule"),
    [
        ({}, adamesh.EveryStep()),
        ({"sync": "every-16"}, adamesh.EveryH(16)),
        ({"sync": "des-loc-32"}, adamesh.EveryH(32, exp_avg=3, exp_avg_sq=6)),
        ({"sync": "stale-2"}, adamesh.Stale(2)),
        ({"sync": "diloco-64"}, adamesh.DiLoCo(64)),
        ({"sync": "diloco-64-streaming-4"}, adamesh.DiLoCo(64, fragments=4)),
        ({"sync": "diloco-9-delay-2", "blend": 0.25}, adamesh.DiLoCo(9, delay=2, blend=0.25)),
        (
            {"sync": "diloco-64-streaming-4-delay-8", "outer_lr": 0.5, "outer_momentum": 0.8},
            adamesh.DiLoCo(64, adamesh.Nesterov(0.5, 0.8), fragments=4, delay=8),
        ),
    ],
)
def test_a_schedules_name_says_all_there_is_to_say(settings, schedule):
    assert build_schedule(PlanSettings(**settings)) == schedule


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, "every-step, 1 island of 4 workers (plan.islands is not set)"),
        ({"sync": "every-1"}, "every-1, 1 island of 4 workers (plan.islands is not set)"),
        ({"sync": "diloco-8"}, "diloco-8, 4 islands of 1 worker (plan.islands is not set)"),
        ({"sync": "diloco-8", "islands": 2}, "diloco-8, 2 islands of 2 workers"),
        ({"sync": "stale-0"}, "stale-0, 1 island of 4 workers (plan.islands is not set)"),
        ({"sync": "stale-1"}, "stale-1, 4 islands of 1 worker (plan.islands is not set)"),
        ({"sync": "every-8", "islands": 1}, "every-8, 1 island of 4 workers"),
    ],
)
def test_where_islands_step_alone_each_worker_is_one_unless_it_is_said_otherwise(settings, shape):
    assert PlanSettings(**settings).described(4) == shape


def test_the_rule_that_freezes_codes_one_bit_from_then_on_inside_an_island_or_between_several():
    one_bit = adamesh.Feedback(adamesh.Sign())
    alone, several = (build_wire(PlanSettings(islands=n), "onebit-adam") for n in (1, 2))
    assert alone == adamesh.Wire(up=adamesh.Frozen(one_bit), down=adamesh.Frozen(adamesh.Sign()))
    assert several == adamesh.Wire(across=adamesh.Frozen(adamesh.Momentum(one_bit)))


def test_codecs_that_are_named_wait_for_the_rule_that_freezes_and_momentum_travels_between_islands():
    int4, int8 = adamesh.Feedback(adamesh.Int4()), adamesh.Int8()
    wire = build_wire(PlanSettings(up="int4", down="int8"), "onebit-adam")
    assert wire == adamesh.Wire(up=adamesh.Frozen(int4), down=adamesh.Frozen(int8))
    wire = build_wire(PlanSettings(across="int4", islands=2), "onebit-adam")
    assert wire == adamesh.Wire(across=adamesh.Frozen(adamesh.Momentum(int4)))
    with pytest.raises(ConfigurationError, match=r"plan.exact_steps = 5.*optim.freeze_at"):
        build_wire(PlanSettings(exact_steps=5), "onebit-adam")


def test_clipping_what_is_not_sent_is_refused_before_workers_start():
    config = RunConfig(optim=OptimSettings("onebit-adam"), plan=PlanSettings(islands=2, max_grad_norm=1.0))
    with pytest.raises(IncompatiblePlan, match=r"max_grad_norm=1.0 with Wire"):
        check_plan(replace(config, optim=config.optim.filled(1e-3, None)), 2)


def test_async_may_say_its_staleness():
    assert build_schedule(PlanSettings(sync="async")) == adamesh.Async()
    assert build_schedule(PlanSettings(sync="async-3")) == adamesh.Async(staleness=3)


@pytest.mark.parametrize("name", ["async-", "async-x", "asynchronous"])
def test_other_names_of_schedules_are_refused(name):
    with pytest.raises(ConfigurationError, match=r"plan\.sync"):
        PlanSettings(sync=name)


def test_what_is_unsound_under_async_is_found_before_workers_are_started():
    plan = PlanSettings(sync="async", max_grad_norm=1.0)
    with pytest.raises(IncompatiblePlan, match="max_grad_norm"):
        check_plan(RunConfig(plan=plan, optim=OptimSettings(betas=(0.9, 0.999))), 2)
    with pytest.raises(ConfigurationError, match="tolerance"):
        RunConfig(plan=PlanSettings(sync="async"), tolerance=0.1)
