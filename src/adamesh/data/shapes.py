"""Drawings of ten kinds that anybody can tell apart: what image tasks train on when they are given no data."""

import math

import torch
from torch import Tensor

from adamesh.data.seeds import derived_seed

__all__ = ["KINDS", "drawn_shapes", "tinted"]

KINDS = ("disc", "ring", "square", "triangle", "cross", "bars", "checks", "dots", "wedge", "blur")


def drawn_shapes(num: int, side: int, kinds: int, seed: int) -> tuple[Tensor, Tensor]:
    """Shapes somewhere in the image, of any size, turned, in one colour before another, and noise over all.

    Args:
        num: how many; kinds take turns.
        side: height and width in pixels.
        kinds: the first so many of ``KINDS``.
        seed: determines everything.

    Returns:
        Images as bytes [num, 3, side, side], and labels as int64 [num].
    """
    assert 1 <= kinds <= len(KINDS), kinds
    generator = torch.Generator().manual_seed(derived_seed("shapes", num, side, kinds, seed))

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(num, *shape, generator=generator)

    labels = torch.arange(num) % kinds
    x_center, y_center = between(-0.3, 0.3, 2, 1, 1).unbind(1)
    size, angle = between(0.4, 0.75, 1, 1), between(-math.pi / 8, math.pi / 8, 1, 1)
    axis = torch.linspace(-1, 1, side)
    x, y = (axis - x_center) / size, (axis.reshape(-1, 1) - y_center) / size
    u, v = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
    cover = torch.empty(num, side, side)
    for kind in range(kinds):
        cover[kind::kinds] = _cover(KINDS[kind], u[kind::kinds], v[kind::kinds])
    # The colours say nothing about the kind, but that they differ enough to see it.
    behind = between(0, 1, 3, 1, 1)
    before = (behind + between(0.35, 0.65, 3, 1, 1)) % 1.0
    images = torch.lerp(behind, before, cover.unsqueeze(1))
    images += 0.06 * torch.randn(images.shape, generator=generator)
    return (images.clamp_(0, 1) * 255).round_().to(torch.uint8), labels


def tinted(images: Tensor, labels: Tensor, kinds: int) -> Tensor:
    """The drawings, halfway to a colour of their kind's own: then a few dozen of them are enough to learn from.

    Args:
        images: bytes [num, 3, side, side].
        labels: int64 [num], each below ``kinds``.
        kinds: how many colours, evenly spaced around the colour wheel.
    """
    thirds = torch.arange(3) / 3
    colours = 127.5 * (1 + torch.cos(2 * math.pi * (labels.unsqueeze(1) / kinds - thirds)))
    return torch.lerp(images.float(), colours.reshape(-1, 3, 1, 1), 0.5).round_().to(torch.uint8)


def _cover(kind: str, u: Tensor, v: Tensor) -> Tensor:
    """How much of each pixel belongs to the shape, 0 to 1; the shape fills about -1 to 1 in ``u`` and ``v``."""
    radius, reach = torch.hypot(u, v), torch.maximum(u.abs(), v.abs())
    match kind:
        case "disc":
            inside = radius < 0.9
        case "ring":
            inside = (radius > 0.6) & (radius < 1.0)
        case "square":
            inside = reach < 0.8
        case "triangle":
            inside = (v > -0.7) & (v < 0.9 - 1.8 * u.abs())
        case "cross":
            inside = (torch.minimum(u.abs(), v.abs()) < 0.25) & (reach < 1.0)
        case "bars":
            inside = (torch.sin(8 * v) > 0) & (reach < 1.0)
        case "checks":
            inside = (torch.sin(6 * u) * torch.sin(6 * v) > 0) & (reach < 1.0)
        case "dots":
            inside = (torch.sin(5 * u).square() + torch.sin(5 * v).square() < 0.6) & (reach < 1.0)
        case "wedge":
            inside = (radius < 1.0) & (v < 0) & (u.abs() < -v)
        case _:
            return torch.exp(-2.5 * radius.square())  # the blur has no edge
    return inside.float()
