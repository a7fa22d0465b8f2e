"""On one worker adamesh is torch's fused optimizer, to the bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import adamesh
from tests.parity.zoo import DEFAULT, SMALL, Recipe, Zoo, alone, identical, loss, micro_batches, on_mesh
from tests.tolerances import SQUARED_NORM

STEPS, FEWER = 50, 15
RECIPES = {
    "plain": Recipe(),
    "amsgrad": Recipe(options={"amsgrad": True}),
    "maximize": Recipe(options={"maximize": True, "lr": 1e-4}),
    "betas-eps-no-decay": Recipe(options={"betas": (0.5, 0.9), "eps": 1e-6, "weight_decay": 0.0}),
    "accumulation": Recipe(micro_batches=2),
    "scheduler": Recipe(scheduled=True),
    "tensor-lr": Recipe(tensor_lr=True, scheduled=True),
    "everything": Recipe(options={"amsgrad": True, "weight_decay": 0.3}, micro_batches=2, scheduled=True),
}


RIVALS = {
    "nadam": Recipe(rule="NAdam"),
    "nadam-decoupled": Recipe(rule="NAdam", options={"decoupled_weight_decay": True, "momentum_decay": 0.1}),
    "nadam-maximize-scheduled": Recipe(rule="NAdam", options={"maximize": True, "lr": 1e-4}, scheduled=True),
    "sgd": Recipe(rule="SGD", tensor_lr=True, scheduled=True),
    "sgd-dampened": Recipe(rule="SGD", options={"momentum": 0.9, "dampening": 0.5}, micro_batches=2),
    "sgd-nesterov": Recipe(rule="SGD", options={"momentum": 0.9, "nesterov": True}),
    "sgd-maximize": Recipe(rule="SGD", options={"momentum": 0.5, "maximize": True, "lr": 1e-4}),
    "adadelta": Recipe(rule="Adadelta", options={"lr": 1.0}),
    "adadelta-maximize": Recipe(rule="Adadelta", options={"rho": 0.5, "eps": 1e-4, "maximize": True}, scheduled=True),
}


def same(ours: Any, theirs: Any) -> bool:
    """Nested states compared to the bit."""
    if isinstance(theirs, torch.Tensor):
        return identical(ours, theirs)
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in theirs)
    return bool(ours == theirs)


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
@pytest.mark.parametrize("name", RECIPES)
def test_fifty_steps_are_torchs_fused_ones_to_the_bit(name, rule):
    for dtype, bucket_mb in [(torch.float32, SMALL), (torch.float64, DEFAULT)]:
        recipe = replace(RECIPES[name], rule=rule, bucket_mb=bucket_mb, dtype=dtype)
        ours, our_state = on_mesh(None, recipe, STEPS)
        theirs, their_state = alone(recipe, STEPS)
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
        assert same(our_state["state"], their_state["state"])


@pytest.mark.parametrize("name", RIVALS)
def test_the_other_rules_are_torchs_own_to_the_bit(name):
    for dtype, bucket_mb in [(torch.float32, SMALL), (torch.float64, DEFAULT)]:
        recipe = replace(RIVALS[name], bucket_mb=bucket_mb, dtype=dtype)
        ours, our_state = on_mesh(None, recipe, FEWER)
        theirs, their_state = alone(recipe, FEWER)
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
        assert same(our_state["state"], their_state["state"])


def test_a_clipped_step_is_torchs_fused_one_on_gradients_scaled_by_the_norm_to_the_bit():
    recipe, limit = Recipe(torch.float32), 0.5
    ours, theirs = Zoo(0), Zoo(0)
    optimizer = recipe.build(adamesh, ours, plan=adamesh.Plan(max_grad_norm=limit))
    twin = recipe.build(torch.optim, theirs, fused=True)
    for step in range(STEPS):
        for model, each in ((ours, optimizer), (theirs, twin)):
            each.zero_grad()
            loss(model, micro_batches(recipe, step, 0, 1)[0], recipe).backward()
        optimizer.step()
        coefficient = limit / (optimizer.grad_norm.item() + 1e-6)
        norm = nn.utils.get_total_norm([p.grad for p in theirs.parameters() if p.grad is not None])
        assert float(norm) == pytest.approx(optimizer.grad_norm.item(), rel=SQUARED_NORM[torch.float32])
        for p in theirs.parameters():
            if p.grad is not None and coefficient < 1.0:
                p.grad.mul_(coefficient)
        twin.step()
        assert same(dict(ours.named_parameters()), dict(theirs.named_parameters())), step
