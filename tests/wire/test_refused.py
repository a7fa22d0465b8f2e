"""Plans that would lose something are refused, with the nearest one that does not."""

import pytest
import torch

import adamesh
from adamesh.errors import ConfigurationError, IncompatiblePlan


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ({"up": adamesh.Int4()}, r"Wire\(up=Int4\(.*\) without feedback.*Keep it: Wire\(up=Feedback\(Int4\("),
        ({"across": adamesh.Int4()}, r"Wire\(across=Int4\(.*\) without feedback.*Wire\(across=Feedback\(Int4\("),
        ({"up": adamesh.Warmup(adamesh.Int4(), 9)}, r"Wire\(up=Int4\(.*\) without feedback"),
        ({"down": adamesh.Feedback(adamesh.Int8())}, r"difference already.*Wire\(down=Int8\("),
        ({"down": adamesh.Warmup(adamesh.Feedback(adamesh.Int8()), 9)}, r"feedback would send it twice"),
    ],
)
def test_what_is_unsound_names_both_settings_why_and_what_to_take_instead(wire, message):
    with pytest.raises(IncompatiblePlan, match=message):
        adamesh.Plan(wire=adamesh.Wire(**wire))


def test_names_belong_in_configuration_files():
    with pytest.raises(ConfigurationError, match=r"Wire\(up='int8'\): must be a codec, as in adamesh.Int8\(\)"):
        adamesh.Plan(wire=adamesh.Wire(up="int8"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"must be an adamesh.Wire"):
        adamesh.Plan(wire=adamesh.Int8())  # type: ignore[arg-type]


def test_feedback_and_warm_up_go_around_codecs_in_one_order():
    with pytest.raises(ConfigurationError, match=r"Warmup\(Feedback"):
        adamesh.Feedback(adamesh.Warmup(adamesh.Int4(), 3))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a warm-up inside a warm-up"):
        adamesh.Warmup(adamesh.Warmup(adamesh.Int8(), 3), 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        adamesh.Warmup(adamesh.Int8(), 0)


def test_a_coded_plan_still_checks_everything_else():
    with pytest.raises(ConfigurationError, match="max_grad_norm"):
        adamesh.Plan(wire=adamesh.Wire(up=adamesh.Cast(torch.bfloat16)), max_grad_norm=-1.0)
