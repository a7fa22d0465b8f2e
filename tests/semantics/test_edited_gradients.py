"""Gradients that are changed after they left, or cannot be sent at all."""

import pytest
import torch
from torch import nn

from adamesh.errors import GradientError
from tests.semantics.ranks import adamw, close, everywhere, grad, parameter, pull, state, textbook


@pytest.mark.parametrize("ranks", [[0], [1], [0, 1]])
def test_editing_a_gradient_that_left_is_refused_on_all_ranks_and_training_can_go_on(ranks):
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [("p", p), ("q", q)])
        pull(p, 1.0)
        pull(q, 8.0)
        if mesh.world.rank in ranks:
            grad(q).mul_(0.5)
        before = [p.item(), q.item(), *state(optimizer, "q").values()]
        with pytest.raises(GradientError, match=r"'q'.*max_grad_norm.*overlap=False"):
            optimizer.step()
        assert [p.item(), q.item(), *state(optimizer, "q").values()] == before
        optimizer.zero_grad()
        pull(q, 3.0)
        optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert p.item() == 1.0
        assert close(q, textbook([1.0], [3.0, 3.0]))


def test_clip_grad_norm_is_such_an_edit():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        pull(p, 10.0)
        nn.utils.clip_grad_norm_([p], 1.0)
        with pytest.raises(GradientError, match="clip_grad_norm_"):
            optimizer.step()

    everywhere(2, law)


def test_a_new_tensor_in_place_of_a_gradient_that_left_is_such_an_edit():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        pull(p, 10.0)
        p.grad = grad(p) / 2
        with pytest.raises(GradientError, match=r"'0\.0'"):
            optimizer.step()

    everywhere(2, law)


def test_without_overlap_gradients_may_be_edited_until_the_step():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q], overlap=False)
        for _ in range(2):
            optimizer.zero_grad()
            pull(p, 1.0 + mesh.world.rank)
            pull(q, 1.0)
            assert not optimizer.engine.reducer.dirty
            grad(p).mul_(10.0)
            q.grad = torch.zeros_like(q) if mesh.world.rank else None
            optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert close(p, textbook([1.0], *[[10.0, 20.0]] * 2))
        assert close(q, textbook([1.0], *[[None, 0.0]] * 2))


def test_without_overlap_gradients_may_be_edited_even_if_the_state_was_asked_for_in_between():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p], overlap=False)
        pull(p, 1.0)
        optimizer.full_state_dict()
        grad(p).mul_(10.0)
        optimizer.step()
        return p

    for p in everywhere(2, law):
        assert close(p, textbook([1.0], [10.0, 10.0]))


@pytest.mark.parametrize("ranks", [[1], [0, 1]])
def test_a_sparse_gradient_is_refused_on_all_ranks_as_often_as_it_is_stepped_on(ranks):
    def law(mesh):
        table = nn.Embedding(4, 2, sparse=mesh.world.rank in ranks)
        optimizer = adamw(mesh, table.named_parameters())
        before = table.weight.detach().clone()
        table(torch.tensor([1])).sum().backward()
        for _ in range(2):
            with pytest.raises(GradientError, match=r"'weight'.*sparse=False"):
                optimizer.step()
            assert torch.equal(table.weight, before)
        table.sparse = False
        optimizer.zero_grad()
        table(torch.tensor([1])).sum().backward()
        optimizer.step()
        return state(optimizer, "weight")["step"]

    assert everywhere(2, law) == [1, 1]


def test_a_gradient_that_is_not_finite_goes_where_torch_lets_it_go():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q])
        pull(p, float("nan") if mesh.world.rank else 1.0)
        pull(q, 1.0)
        optimizer.step()
        return p.item(), q

    for p, q in everywhere(2, law):
        assert p != p
        assert close(q, textbook([1.0], [1.0, 1.0]))
        assert not torch.isfinite(torch.tensor(p))
