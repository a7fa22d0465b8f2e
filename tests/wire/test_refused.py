"""Plans that would lose something are refused, with the nearest one that does not."""

from datetime import datetime

import pytest
import torch

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.train.folder import begin_run
from adamesh.train.settings import PlanSettings, RunConfig


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ({"up": adamesh.Int4()}, r"Wire\(up=Int4\(.*\) without feedback.*Keep it: Wire\(up=Feedback\(Int4\("),
        ({"across": adamesh.Int4()}, r"Wire\(across=Int4\(.*\) without feedback.*Wire\(across=Feedback\(Int4\("),
        ({"up": adamesh.Warmup(adamesh.Int4(), 9)}, r"Wire\(up=Int4\(.*\) without feedback"),
        ({"up": adamesh.Sign()}, r"Wire\(up=Feedback\(Sign\("),
        ({"up": adamesh.TopK(density=0.01)}, r"Wire\(up=Feedback\(TopK\(density=0.01"),
        ({"down": adamesh.LowRank(4)}, r"Wire\(down=LowRank\(rank=4\)\).*no matrices.*Wire\(down=Int4"),
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


def test_low_rank_between_islands_needs_islands_of_one_worker():
    wire = adamesh.Wire(across=adamesh.LowRank(4))

    def law(mesh: Mesh) -> None:
        with pytest.raises(IncompatiblePlan, match=r"across=LowRank\(rank=4\)\) with 2 workers an island.*up=LowRank"):
            adamesh.Plan(mesh=mesh, wire=wire)

    ThreadWorld(2, 2).run(law)
    ThreadWorld(2, 1).run(lambda mesh: adamesh.Plan(mesh=mesh, wire=wire).check())


def test_top_k_needs_a_second_moment_that_remembers():
    plan = adamesh.Plan(wire=adamesh.Wire(up=adamesh.Feedback(adamesh.TopK(density=0.01))))
    p, q = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    with pytest.raises(IncompatiblePlan, match=r"betas=\(0.9, 0.95\) with Wire\(up=TopK.*Take betas=\(0.9, 0.99\)"):
        adamesh.AdamW([p], betas=(0.9, 0.95), plan=plan)
    optimizer = adamesh.AdamW([p], plan=plan)
    with pytest.raises(IncompatiblePlan):
        optimizer.add_param_group({"params": [q], "betas": (0.9, 0.95)})
    assert len(optimizer.param_groups) == 1


def test_a_wrong_codec_costs_one_line_before_any_worker_is_started(tmp_path):
    config = RunConfig(out=tmp_path / "run", plan=PlanSettings(down="lowrank-4"))
    with pytest.raises(IncompatiblePlan, match="slices that come DOWN are no matrices"):
        begin_run(config, 2, datetime(2026, 1, 1))
    assert not (tmp_path / "run").exists()
