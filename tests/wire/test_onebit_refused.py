"""What 1-bit Adam is not built with, and why."""

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import ConfigurationError, IncompatiblePlan

ONE_BIT = adamesh.Feedback(adamesh.Sign())
MOMENTUM = adamesh.Momentum(ONE_BIT)


def build(plan: adamesh.Plan | None = None, **options: object) -> adamesh.OneBitAdam:
    return adamesh.OneBitAdam([nn.Parameter(torch.zeros(3))], plan=plan, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": (0.9, 0.5)}, r"betas\[1\]=0.5 is out of range.*Take at least 0.9"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]=1.0 is out of range"),
        ({"freeze_at": 0}, r"freeze_at=0 is out of range.*at least 1"),
        ({"freeze_at": 2.5}, r"freeze_at=2.5 is out of range"),
        ({"eps": -1.0}, "eps=-1.0 is out of range"),
    ],
)
def test_a_number_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        build(**options)


def test_row_sparse_tables_have_no_frozen_rule():
    table = {"params": [nn.Parameter(torch.zeros(3, 2))], "sparse": "lazy"}
    with pytest.raises(ConfigurationError, match=r"whose rule is OneBitAdam.*AdamW"):
        adamesh.OneBitAdam([table])


def test_amsgrad_would_move_what_is_frozen():
    with pytest.raises(TypeError, match="amsgrad"):
        adamesh.OneBitAdam([nn.Parameter(torch.zeros(3))], amsgrad=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ({"up": MOMENTUM}, r"up=Momentum.*owner of a slice alone.*Wire\(up=Frozen\(Feedback\(Sign"),
        ({"up": adamesh.Frozen(MOMENTUM)}, r"up=Momentum.*Wire\(across=Frozen\(Momentum"),
        ({"down": adamesh.Frozen(MOMENTUM)}, r"down=Momentum.*Wire\(down=Frozen\(Sign"),
        ({"across": MOMENTUM}, r"outside Frozen.*Wire\(across=Frozen\(Momentum"),
        ({"across": adamesh.Frozen(adamesh.Momentum(adamesh.Sign()))}, r"across=Sign\(.*without feedback"),
        ({"up": adamesh.Frozen(adamesh.Sign())}, r"up=Sign\(.*without feedback"),
        ({"down": adamesh.Frozen(ONE_BIT)}, r"feedback would send it twice"),
    ],
)
def test_an_unsound_wire_names_what_is_sound(wire, message):
    with pytest.raises(IncompatiblePlan, match=message):
        adamesh.Plan(wire=adamesh.Wire(**wire))


def test_phases_do_not_nest():
    with pytest.raises(ConfigurationError, match="a warm-up has no place in it"):
        adamesh.Frozen(adamesh.Warmup(ONE_BIT, 3))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs no warm-up"):
        adamesh.Warmup(adamesh.Frozen(ONE_BIT), 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"Frozen\(Momentum\(Feedback"):
        adamesh.Momentum(adamesh.LowRank(2))  # type: ignore[arg-type]


def test_second_moments_are_not_learned_of_coded_gradients():
    plan = adamesh.Plan(wire=adamesh.Wire(up=ONE_BIT))
    with pytest.raises(IncompatiblePlan, match=r"with OneBitAdam.*Wire\(up=Frozen\(Feedback\(Sign"):
        build(plan)
    build(adamesh.Plan(wire=adamesh.Wire(up=adamesh.Int8(), down=adamesh.Int4())))


def test_frozen_codecs_wait_for_a_rule_that_freezes():
    plan = adamesh.Plan(wire=adamesh.Wire(up=adamesh.Frozen(ONE_BIT)))
    with pytest.raises(IncompatiblePlan, match=r"nothing would ever be coded.*OneBitAdam.*Wire\(up=Warmup"):
        adamesh.AdamW([nn.Parameter(torch.zeros(3))], plan=plan)


@pytest.mark.parametrize("sync", [adamesh.EveryH(4), adamesh.DiLoCo(4), adamesh.Stale(1)], ids=str)
def test_a_freeze_needs_steps_that_all_workers_make_together(sync):
    with pytest.raises(IncompatiblePlan, match=r"with OneBitAdam: islands that step alone.*sync=EveryStep"):
        build(adamesh.Plan(sync=sync, wire=adamesh.Wire(down=adamesh.Frozen(adamesh.Sign()))))


@pytest.mark.parametrize("coding", [adamesh.Frozen(ONE_BIT), adamesh.Frozen(MOMENTUM)], ids=str)
def test_pseudo_gradients_wait_for_no_second_moments(coding):
    with pytest.raises(IncompatiblePlan, match=r"wait for no second moments.*DiLoCo\(codec=Feedback\(Sign"):
        adamesh.Plan(sync=adamesh.DiLoCo(4, codec=coding))


def test_the_norm_of_a_gradient_that_nobody_sends_cannot_be_clipped():
    with pytest.raises(IncompatiblePlan, match=r"max_grad_norm=1.0 with Wire\(across=Frozen\(Momentum"):
        adamesh.Plan(max_grad_norm=1.0, wire=adamesh.Wire(across=adamesh.Frozen(MOMENTUM)))

    def law(mesh: Mesh) -> None:
        with pytest.raises(IncompatiblePlan, match="max_grad_norm"):
            build(adamesh.Plan(mesh=mesh, max_grad_norm=1.0))

    ThreadWorld(2, 1).run(law)
    ThreadWorld(1, 2).run(lambda mesh: build(adamesh.Plan(mesh=mesh, max_grad_norm=1.0)).stats())


def test_workers_that_freeze_at_different_steps_are_told_apart_before_they_do():
    def law(mesh: Mesh) -> None:
        p = nn.Parameter(torch.zeros(3))
        optimizer = adamesh.OneBitAdam([p], freeze_at=3 + mesh.world.rank, plan=adamesh.Plan(mesh=mesh))
        p.grad = torch.ones(3)
        with pytest.raises(ConfigurationError, match=r"worker 1 has hyper-parameters.*'freeze_at': 4"):
            optimizer.step()

    ThreadWorld(1, 2).run(law)
