"""Parameters that some ranks use, or none; that are frozen, or were."""

import pytest
import torch
from torch import nn

from tests.semantics.ranks import adamw, close, everywhere, grad, parameter, pull, state, textbook


def test_a_parameter_that_some_ranks_use_gets_the_mean_with_zeros_for_the_others():
    def law(mesh):
        p, other = parameter(1.0, 2.0), parameter(0.0)
        optimizer = adamw(mesh, [p, other])
        pull(p if mesh.world.rank == 1 else other, 6.0)
        optimizer.step()
        return p

    for p in everywhere(3, law):
        assert close(p, textbook([1.0, 2.0], [None, 6.0, None]))


def test_a_parameter_that_no_rank_uses_is_left_alone_with_its_moments_and_its_count():
    def law(mesh):
        p, other = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, other])
        pull(p, 1.0)
        optimizer.step()
        before, value = state(optimizer), p.detach().clone()
        optimizer.zero_grad()
        pull(other, 1.0)
        optimizer.step()
        assert state(optimizer) == before
        assert torch.equal(p, value)
        return state(optimizer, "0.1")["step"]

    assert everywhere(2, law) == [2 - 1, 2 - 1]


def test_gradients_set_to_zero_are_gradients_as_in_torch():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        pull(p, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        assert grad(p).tolist() == [0.0]
        optimizer.step()
        return p

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], [1.0, 1.0], [0.0, 0.0]))


def test_a_rank_without_any_backward_counts_as_zeros():
    def law(mesh):
        params = [parameter(1.0) for _ in range(3)]
        optimizer = adamw(mesh, params, bucket_mb=1e-6)
        for p in params if mesh.world.rank else []:
            pull(p, 4.0)
        optimizer.step()
        return params

    for params in everywhere(2, law):
        assert all(close(p, textbook([1.0], [None, 4.0])) for p in params)


def test_a_step_without_any_gradient_changes_nothing():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        optimizer.step()
        return p.item(), state(optimizer)["step"], optimizer.grad_norm.item()

    assert everywhere(2, law) == [(1.0, 0, 0.0)] * 2


@pytest.mark.parametrize("others", ["frozen", "trainable"])
def test_a_parameter_unfrozen_later_takes_its_first_step_then(others):
    def law(mesh):
        p = parameter(1.0).requires_grad_(False)
        beside = parameter(1.0).requires_grad_(others == "trainable")
        driver = parameter(1.0)
        optimizer = adamw(mesh, [p, beside, driver])
        for step in range(4):
            p.requires_grad_(step >= 2)
            optimizer.zero_grad()
            loss = (driver + p + beside).sum()
            loss.backward()
            optimizer.step()
        return p, state(optimizer)["step"], beside, driver

    for p, steps, beside, driver in everywhere(2, law):
        assert steps == 2
        assert close(p, textbook([1.0], *[[1.0, 1.0]] * 2))
        assert close(driver, textbook([1.0], *[[1.0, 1.0]] * 4))
        assert beside.item() == 1.0 or close(beside, driver)


def test_a_parameter_unfrozen_on_its_own_wakes_its_bucket_on_all_ranks():
    def law(mesh):
        p, q = parameter(1.0).requires_grad_(False), parameter(1.0).requires_grad_(False)
        optimizer = adamw(mesh, [p, q])
        assert optimizer.stats().state_bytes == 0
        for _ in range(2):
            if mesh.world.rank == 1:
                p.requires_grad_(True)
                p.grad = None
                pull(p, 2.0)
            optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert close(p, textbook([1.0], *[[None, 2.0]] * 2))
        assert q.item() == 1.0


def test_a_parameter_frozen_later_stays_where_it_is_and_the_others_go_on():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q])
        for step in range(3):
            p.requires_grad_(step == 0)
            optimizer.zero_grad()
            (p + q).sum().backward()
            optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert close(p, textbook([1.0], [1.0, 1.0]))
        assert close(q, textbook([1.0], *[[1.0, 1.0]] * 3))


@pytest.mark.parametrize("frozen", [True, False])
def test_a_bucket_leaves_as_soon_as_all_it_waits_for_is_there_which_frozen_parameters_are_not(frozen):
    def law(mesh):
        late, first, second = parameter(1.0), parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [{"params": [late]}, {"params": [first, second]}])
        second.requires_grad_(not frozen)
        left = []
        late.register_hook(lambda _: left.append(optimizer.engine.buckets[0].left))
        (late * 2.0 * first).sum().backward()
        optimizer.step()
        return left

    assert everywhere(2, law) == [[frozen]] * 2


def test_gradients_may_be_assigned_by_hand_on_some_ranks_or_all():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q])
        p.grad = torch.full_like(p, 2.0 * mesh.world.rank)
        if mesh.world.rank == 0:
            q.grad = torch.full_like(q, 3.0)
        optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert close(p, textbook([1.0], [0.0, 2.0]))
        assert close(q, textbook([1.0], [3.0, None]))


def test_a_gradient_assigned_after_the_others_left_is_sent_too():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q])
        pull(q, 1.0)  # sends both at the end of backward
        p.grad = torch.full_like(p, 5.0)
        optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert close(p, textbook([1.0], [5.0, 5.0]))
        assert close(q, textbook([1.0], [1.0, 1.0]))


def test_tied_parameters_are_one_parameter():
    def law(mesh):
        first, second = (nn.Linear(3, 3, bias=False).double() for _ in range(2))
        nn.init.ones_(first.weight)
        second.weight = first.weight
        optimizer = adamw(mesh, nn.Sequential(first, second).parameters(), lr=0.1)
        (first.weight + 2.0 * second.weight).sum().backward()
        optimizer.step()
        return first, second

    for first, second in everywhere(2, law):
        assert first.weight is second.weight
        assert close(first.weight.view(-1), textbook([1.0] * 9, [3.0, 3.0], lr=0.1))
