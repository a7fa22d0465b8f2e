"""A custom function may have no gradient for a parameter."""

import torch

from tests.semantics.ranks import adamw, everywhere, parameter


class Detached(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p):
        return p * 1

    @staticmethod
    def backward(ctx, grad):
        return None


def test_no_gradient_adds_nothing_to_a_low_precision_sum():
    def law(mesh):
        p = parameter(1.0, dtype=torch.bfloat16)
        optimizer = adamw(mesh, [p], lr=0.5, weight_decay=0.0)
        (p * 3).sum().backward()
        Detached.apply(p).sum().backward()
        assert p.grad is not None
        assert p.grad.item() == 3.0
        optimizer.step()
        return p.item()

    assert everywhere(2, law) == [0.5, 0.5]
