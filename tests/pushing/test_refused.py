"""What is unsound where nobody waits, and what is said then."""

import re
from typing import Any

import pytest
import torch

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import ConfigurationError, IncompatiblePlan
from tests.pushing.world import Pusher, among

FOUR = adamesh.Feedback(adamesh.Int4())
PLANS: dict[str, dict[str, Any]] = {
    "max_grad_norm=1.0": {"max_grad_norm": 1.0},
    "Wire(down=": {"wire": adamesh.Wire(down=adamesh.Int8())},
    "Wire(across=": {"wire": adamesh.Wire(across=adamesh.Int8())},
    "Wire(up=LowRank(rank=1": {"wire": adamesh.Wire(up=adamesh.LowRank(1))},
    "Wire(up=Warmup(": {"wire": adamesh.Wire(up=adamesh.Warmup(FOUR, 5))},
    "outstanding=1 and Wire(up=": {"sync": adamesh.Async(outstanding=1), "wire": adamesh.Wire(up=FOUR)},
    "outstanding=1 and compensation=0.1": {"sync": adamesh.Async(outstanding=1, compensation=0.1)},
}


@pytest.mark.parametrize("said", PLANS)
def test_a_plan_that_is_unsound_names_both_settings_and_a_way_out(said):
    settings: dict[str, Any] = {"sync": adamesh.Async(), **PLANS[said]}
    with pytest.raises(IncompatiblePlan, match=r"^sync=Async\(.*" + re.escape(said)) as refused:
        adamesh.Plan(**settings)
    assert re.search(r"Take|Leave|Clip|Code", str(refused.value))


def test_several_islands_are_refused():
    def law(mesh):
        with pytest.raises(IncompatiblePlan, match="2 islands"):
            adamesh.Plan(mesh=mesh, sync=adamesh.Async())

    ThreadWorld(2, 1).run(law)


@pytest.mark.parametrize("setting", ["staleness", "outstanding", "max_lead", "compensation"])
def test_numbers_out_of_range_are_refused(setting):
    with pytest.raises(ConfigurationError, match=setting):
        adamesh.Async(**{setting: -1})


def test_a_gradient_scaler_is_refused():
    def law(mesh):
        pusher = Pusher(mesh, adamesh.Async())
        scaler = adamesh.GradScaler()
        pusher.backward(1.0)
        with pytest.raises(IncompatiblePlan, match="GradScaler"):
            scaler.step(pusher.optimizer)

    among(1, law)


def test_row_sparse_tables_are_refused():
    def law(mesh):
        model = torch.nn.Embedding(10, 4, sparse=True)
        with pytest.raises(IncompatiblePlan, match="Async"):
            adamesh.AdamW(adamesh.param_groups(model), plan=adamesh.Plan(mesh=mesh, sync=adamesh.Async()))

    among(1, law)


def test_lbfgs_is_refused():
    with pytest.raises(IncompatiblePlan, match="sync"):
        adamesh.LBFGS([torch.nn.Parameter(torch.zeros(3))], plan=adamesh.Plan(sync=adamesh.Async()))
