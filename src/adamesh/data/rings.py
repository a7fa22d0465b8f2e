"""Two classes in the plane that no straight line separates: points on two rings, one around the other."""

import math

import torch
from torch import Tensor

__all__ = ["two_rings"]


def two_rings(count: int, noise: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points, float32 [count, 2], and classes, float32 [count]: 0 on the ring of radius 1, 1 on that of radius 2.

    Args:
        count: of points.
        noise: standard deviation of a point's distance from its ring.
        generator: where the random numbers come from.
    """
    labels = torch.randint(0, 2, (count,), generator=generator).float()
    angles = 2 * math.pi * torch.rand(count, generator=generator)
    radius = 1 + labels + noise * torch.randn(count, generator=generator)
    return radius[:, None] * torch.stack([angles.cos(), angles.sin()], dim=1), labels
