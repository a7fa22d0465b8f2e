"""Whatever a backward goes through, its gradients arrive."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from adamesh.comm.base import Mesh
from tests.device import DEVICE
from tests.parity.zoo import identical
from tests.semantics.ranks import adamw, close, everywhere, filled, grad, parameter, pull, textbook
from tests.tolerances import SINGLE_PROCESS

F64 = torch.float64
Loss = Callable[[Any, Tensor], Tensor]


def built(dtype: torch.dtype) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1))
    return filled(model).to(dtype)


def trained(mesh: Mesh | None, model: nn.Module, loss: Loss, dtype: torch.dtype = F64) -> Tensor:
    """Three steps on half the batch each, or without a mesh on all of it by torch."""
    params = list(model.parameters())
    optimizer = (
        torch.optim.AdamW(params, lr=0.01, fused=True) if mesh is None else adamw(mesh, params, lr=0.01, bucket_mb=1e-6)
    )
    for step in range(3):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step), dtype=F64).to(DEVICE, dtype)
        share = x if mesh is None else x.chunk(mesh.world.size)[mesh.world.rank]
        optimizer.zero_grad()
        loss(model, share).backward()
        optimizer.step()
    return nn.utils.parameters_to_vector(params).detach()


def plain(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return model(x).square().mean()


def checkpointed(reentrant: bool) -> Loss:
    """The last layers outside the checkpoint, or inside: then the inner backward is the first to report."""

    def loss(model: nn.Sequential, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        hidden = checkpoint(model[:2], x, use_reentrant=reentrant)
        hidden = checkpoint(model[2:], hidden, use_reentrant=reentrant)
        return hidden.square().mean()

    return loss


def head_outside(model: nn.Sequential, x: Tensor) -> Tensor:
    hidden = checkpoint(model[:3], x.clone().requires_grad_(), use_reentrant=True)
    return model[3:](hidden).square().mean()


LOSSES = {
    "non-reentrant": checkpointed(False),
    "reentrant": checkpointed(True),
    "reentrant-head-outside": head_outside,
}


@pytest.mark.parametrize("name", LOSSES)
def test_checkpointed_layers_are_trained_as_others(name):
    alone = trained(None, built(F64), plain)
    for ours in everywhere(2, lambda mesh: trained(mesh, built(F64), LOSSES[name])):
        assert float((ours - alone).abs().max()) <= SINGLE_PROCESS[F64]


def test_a_layer_checkpointed_twice_in_one_backward_adds_up():
    def twice(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        once, again = (checkpoint(model, x, use_reentrant=True).square().mean() for _ in range(2))
        return once + again

    alone = trained(None, built(F64), lambda model, x: 2.0 * plain(model, x))
    for ours in everywhere(2, lambda mesh: trained(mesh, built(F64), twice)):
        assert float((ours - alone).abs().max()) <= SINGLE_PROCESS[F64]


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_a_gradient_made_with_create_graph_can_be_differentiated_and_stepped_on():
    def law(mesh):
        p = parameter(2.0)
        optimizer = adamw(mesh, [p])
        (p**3).sum().backward(create_graph=True)  # 3 p^2 = 12
        second = torch.autograd.grad(grad(p).sum(), p)[0]  # 6 p = 12
        optimizer.step()
        optimizer.zero_grad()
        return p, second.item()

    for p, second in everywhere(2, law):
        assert second == 12.0
        assert close(p, textbook([2.0], [12.0, 12.0]))


def test_a_gradient_penalty_is_trained_through():
    def penalized(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return plain(model, x) + slope.square().sum(1).mean()

    alone = trained(None, built(F64), penalized)
    for ours in everywhere(2, lambda mesh: trained(mesh, built(F64), penalized)):
        assert float((ours - alone).abs().max()) <= SINGLE_PROCESS[F64]


def test_autocast_to_bfloat16_trains_float32_parameters_as_torch_does():
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            out = model(x)
        assert out.dtype == torch.bfloat16
        return out.float().square().mean()

    alone = trained(None, built(torch.float32), loss, torch.float32)
    ours = everywhere(1, lambda mesh: trained(mesh, built(torch.float32), loss, torch.float32))[0]
    assert identical(ours, alone)


def test_a_compiled_model_is_trained_as_an_eager_one():
    def law(mesh):
        model = built(F64)
        compiled = torch.compile(model, backend="aot_eager")
        return trained(mesh, model, lambda _, x: plain(compiled, x))

    assert identical(everywhere(1, law)[0], trained(None, built(F64), plain))


def test_gradients_are_this_ranks_own_and_stay_readable_until_the_step_ends():
    def law(mesh):
        p = parameter(1.0, 1.0)
        optimizer = adamw(mesh, [p], max_grad_norm=1e-3)
        pull(p, 1.0 + mesh.world.rank)
        before = grad(p).tolist()
        optimizer.step()
        return before, grad(p).tolist()

    assert everywhere(2, law) == [([1.0, 1.0], [1.0, 1.0]), ([2.0, 2.0], [2.0, 2.0])]
    assert everywhere(1, law) == [([1.0, 1.0], [1.0, 1.0])]


def test_a_backward_that_fails_half_way_leaves_nothing_behind_after_zero_grad():
    def law(mesh):
        p, q = parameter(1.0), parameter(1.0)
        optimizer = adamw(mesh, [p, q], bucket_mb=1e-6)
        broken = (q * 2).sum()
        broken.register_hook(lambda grad: 1 / 0)
        if mesh.world.rank == 0:
            with pytest.raises(ZeroDivisionError):
                (p.sum() + broken).backward()
            optimizer.zero_grad()
        (p + q).sum().backward()
        optimizer.step()
        return p, q

    for p, q in everywhere(2, law):
        assert close(p, textbook([1.0], [1.0, 1.0]))
        assert close(q, textbook([1.0], [1.0, 1.0]))


def test_a_graph_that_saved_a_parameter_refuses_to_go_back_after_the_step_as_in_torch():
    def law(mesh):
        p = parameter(1.0)
        optimizer = adamw(mesh, [p])
        loss = (p * p).sum()
        loss.backward(retain_graph=True)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    everywhere(2, law)
