"""What works with torch.optim.AdamW works the same here."""

import copy
import gc
import pickle
import weakref
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import adamesh
from adamesh.errors import ConfigurationError, LayoutError, ParameterError
from tests.semantics.ranks import adamw, close, everywhere, parameter, pull, state, textbook

F64 = torch.float64


def test_a_closure_computes_the_loss_with_gradients_on_and_is_called_once():
    def law(mesh):
        p = parameter(2.0)
        optimizer = adamw(mesh, [p])
        calls = []

        def closure():
            calls.append(torch.is_grad_enabled())
            optimizer.zero_grad()
            pull(p, 1.0 + mesh.world.rank)
            return 7.0

        with torch.no_grad():
            loss = optimizer.step(closure)
        return loss, calls, p

    for loss, calls, p in everywhere(2, law):
        assert (loss, calls) == (7.0, [True])
        assert close(p, textbook([2.0], [1.0, 2.0]))


@pytest.mark.parametrize("in_window", [False, True])
def test_a_group_may_be_added_after_some_steps(in_window):
    def law(mesh):
        p, q = parameter(1.0), parameter(float(mesh.world.rank))
        optimizer = adamw(mesh, [p])
        for step in range(4):
            if step == 2 and not in_window:
                optimizer.add_param_group({"params": [q], "lr": 0.1})
            optimizer.zero_grad()
            if mesh.world.rank or step != 2:
                pull(p, 1.0)
            if step == 2 and in_window:  # some ranks have sent what they have, others not
                optimizer.add_param_group({"params": [q], "lr": 0.1})
            if step >= 2:
                pull(q, 1.0)
            optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert close(p, textbook([1.0], [1.0, 1.0], [1.0, 1.0], [None, 1.0], [1.0, 1.0]))
        assert close(q, textbook([0.0], *[[1.0, 1.0]] * 2, lr=0.1))


def test_a_group_that_is_refused_leaves_no_trace():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        with pytest.raises(ConfigurationError, match="lr"):
            optimizer.add_param_group({"params": [parameter(1.0)], "lr": -1.0})
        pull(p, 1.0)
        optimizer.step()
        return len(optimizer.param_groups), state(optimizer)["step"]

    assert everywhere(2, law) == [(1, 1)] * 2


SCHEDULERS = {
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step),
    "one-cycle-with-betas": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=8),
    "warm-up-then-cosine": lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4),
        ],
        milestones=[2],
    ),
}


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_are_followed(name, lr):
    def law(mesh):
        p = parameter(1.0)
        own_lr = lr.clone() if isinstance(lr, torch.Tensor) else lr
        optimizer = torch.optim.AdamW([p], own_lr, fused=True) if mesh is None else adamw(mesh, [p], lr=own_lr)
        scheduler = SCHEDULERS[name](optimizer)
        for step in range(6):
            optimizer.zero_grad()
            pull(p, float(step))
            optimizer.step()
            scheduler.step()
        return p, float(optimizer.param_groups[0]["lr"]), optimizer.param_groups[0]["betas"]

    expected, *hyper = law(None)
    for p, *ours in everywhere(2, law):
        assert ours == hyper
        assert close(p, expected)


def test_generators_pairs_and_groups_are_taken_and_names_reach_the_state():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert list(adamesh.AdamW(model.parameters()).state_dict()["state"]) == ["0.3", "0.2", "0.1", "0.0"]
    named = adamesh.AdamW(model.named_parameters()).state_dict()
    assert set(named["state"]) == {name for name, _ in model.named_parameters()}
    assert named["param_groups"][0]["params"] == [name for name, _ in model.named_parameters()]
    groups = [{"params": layer.parameters(), "lr": lr} for layer, lr in zip(model, (0.1, 0.2), strict=True)]
    assert set(adamesh.AdamW(groups).state_dict()["state"]) == {"0.0", "0.1", "1.0", "1.1"}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "lr": ({"lr": -1.0}, "lr=-1.0 .*at least 0"),
    "lr-nan": ({"lr": float("nan")}, "lr=nan"),
    "eps": ({"eps": -1e-8}, "eps=-1e-08"),
    "weight_decay": ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    "beta": ({"betas": (0.9, 1.0)}, r"betas\[1\]=1.0"),
    "betas": ({"betas": (0.9,)}, "betas.*two numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hyper_parameter_out_of_range_is_named_in_any_group(name):
    options, match = BAD[name]
    for rule in (adamesh.Adam, adamesh.AdamW):
        with pytest.raises(ConfigurationError, match=match):
            rule([parameter(1.0)], **options)
        with pytest.raises(ConfigurationError, match=match):
            rule([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], **options}])


def test_amsgrad_may_be_switched_off_later_but_not_on():
    def law(mesh, at_first):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p], amsgrad=at_first)
        for gradient in (3.0, 1.0):
            optimizer.zero_grad()
            pull(p, gradient)
            optimizer.step()
            optimizer.param_groups[0]["amsgrad"] = not at_first
        return p

    for p in everywhere(2, law, True):
        assert close(p, textbook([1.0], [3.0], [1.0]))
    with pytest.raises(ConfigurationError, match=r"max_exp_avg_sq.*build a new optimizer"):
        everywhere(2, law, False)


def test_a_tensor_learning_rate_has_one_element():
    with pytest.raises(ValueError, match="one element"):
        adamesh.AdamW([parameter(1.0)], lr=torch.ones(2))


def test_an_optimizer_without_parameters_is_refused_as_in_torch():
    with pytest.raises(ValueError, match="empty parameter list"):
        adamesh.AdamW([])


def test_ranks_with_other_parameters_are_told_the_first_that_differs():
    def law(mesh):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2 + mesh.world.rank // 2))
        adamw(mesh, model.named_parameters())

    for num_ranks in (3, 4):
        with pytest.raises(LayoutError, match=r"worker 2 and worker 0 .*'1\.weight'.*shape.*\[3, 2\].*\[2, 2\]"):
            everywhere(num_ranks, law)


def test_ranks_that_froze_other_parameters_are_told_so():
    def law(mesh):
        adamw(mesh, [("p", parameter(1.0)), ("q", parameter(1.0).requires_grad_(mesh.world.rank == 0))])

    with pytest.raises(LayoutError, match=r"'q'.*frozen"):
        everywhere(2, law)


def test_one_name_for_two_parameters_is_refused():
    with pytest.raises(LayoutError, match="'p'"):
        adamesh.AdamW([("p", parameter(1.0)), ("p", parameter(2.0))])


@pytest.mark.parametrize("copier", [copy.deepcopy, copy.copy, pickle.dumps], ids=lambda f: f.__name__)
def test_an_optimizer_cannot_be_copied(copier):
    with pytest.raises(TypeError, match=r"adamesh\.save"):
        copier(adamesh.AdamW([parameter(1.0)]))


def test_a_models_state_dict_goes_through_torch_save_and_safetensors(tmp_path):
    def law(mesh):
        model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
        optimizer = adamw(mesh, model.parameters())
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step()
        torch.save(model.state_dict(), tmp_path / f"{mesh.world.rank}.pt")
        safetensors.torch.save_file(model.state_dict(), tmp_path / f"{mesh.world.rank}.safetensors")
        loads = [
            torch.load(tmp_path / f"{mesh.world.rank}.pt", weights_only=True),
            safetensors.torch.load_file(tmp_path / f"{mesh.world.rank}.safetensors"),
        ]
        return [torch.equal(value, loaded[name]) for name, value in model.state_dict().items() for loaded in loads]

    assert all(map(all, everywhere(2, law)))


def test_a_second_optimizer_takes_over_and_the_first_says_so():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        first = adamw(mesh, [("p", p), ("q", q)])
        pull(p, 1.0)
        first.step()
        second = adamw(mesh, [("p", p)])
        first.zero_grad()
        with pytest.raises(ParameterError, match=r"'p' belongs to a newer optimizer"):
            first.step()
        pull(p, 2.0)
        second.step()
        return p, state(second, "p")["step"]

    start = textbook([1.0], [1.0, 1.0]).tolist()
    for p, steps in everywhere(2, law):
        assert steps == 1
        assert close(p, textbook(start, [2.0, 2.0]))


@pytest.mark.parametrize("dtype", [F64, torch.bfloat16])
def test_an_optimizer_that_nobody_holds_goes_with_its_hooks_and_memory(dtype):
    p = parameter(1.0, dtype=dtype)
    optimizer = adamesh.AdamW([p])
    pull(p, 1.0)
    optimizer.step()
    bucket = weakref.ref(optimizer.engine.buckets[0])
    assert p._post_accumulate_grad_hooks
    del optimizer
    gc.collect()
    assert not p._post_accumulate_grad_hooks
    assert bucket() is None
    pull(p, 1.0)
    adamesh.AdamW([p]).step()


def test_a_rank_may_build_its_optimizer_while_gradients_are_off():
    def law(mesh):
        p = parameter(1.0, dtype=torch.bfloat16)
        with torch.no_grad():
            optimizer = adamw(mesh, [p])
        for _ in range(2):
            pull(p, 1.0)
        with torch.no_grad():
            optimizer.step()
        return optimizer.grad_norm.item()

    assert everywhere(2, law) == [2.0, 2.0]
