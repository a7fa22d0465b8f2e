import pytest
import torch

import adamesh
from adamesh.train.names import build_wire
from adamesh.train.settings import PlanSettings

NAMES = {
    "exact": (None, None),
    "bf16": (adamesh.Cast(torch.bfloat16),) * 2,
    "fp16": (adamesh.Cast(torch.float16),) * 2,
    "int8": (adamesh.Int8(),) * 2,
    "int4": (adamesh.Feedback(adamesh.Int4()), adamesh.Int4()),
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
