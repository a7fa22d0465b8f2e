"""Block scales: bfloat16, so that the smallest and the largest gradients have one.

float16 has none for blocks below 1e-8 or so, and float32 would take twice the bytes (at 64 elements a block, 6 % of
an int4 payload) to say more than codes of 8 bits can use. Rounded up, a scale of 8 significant bits clips nothing and
makes steps at most 0.8 % longer.

Everything here gives the same bits on every machine, whether compiled or not: largest values and sums of integers do
not depend on the order in which they are taken, which sums of floating-point numbers do.
"""

import torch
from torch import Tensor

__all__ = ["SMALLEST", "mean_magnitudes", "scales_for"]

SMALLEST = torch.finfo(torch.float32).tiny
"""A smaller scale is zero: what is not a normal number may be zero on one machine and not on another."""
_LARGEST = torch.finfo(torch.bfloat16).max
_DROPPED_BITS = 0xFFFF
_UNITS = 2**16
"""Of a block's largest magnitude. At most 256 of them are added, so that sums stay exact in float32."""


def scales_for(magnitude: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """``scale >= magnitude * factor`` that bfloat16 can hold, and ``1 / scale``, both float32.

    A block that is all zeros, or whose scale would be below `SMALLEST`, has scale 0 and inverse 0. Where ``magnitude``
    is not finite, or too large for bfloat16, the scale is NaN, which marks the block, and the inverse is 0.
    """
    exact = magnitude.float() * factor
    bits = (exact.view(torch.int32) + _DROPPED_BITS).bitwise_and(~_DROPPED_BITS)
    scale = torch.where(exact <= _LARGEST, bits.view(torch.float32), float("nan"))
    scale = torch.where(exact < SMALLEST, 0.0, scale)
    return scale, torch.where(scale > 0.0, scale.reciprocal(), 0.0)


def mean_magnitudes(x_RKB: Tensor) -> Tensor:
    """The mean of ``|x|`` in each block of float32, [R, K, 1], up to 2**-16 of its largest; NaN marks the block.

    Magnitudes are counted in whole 65536ths of the largest, so that their sum is the same in any order.
    """
    magnitudes_RKB = x_RKB.abs()
    peak_RK1, inverse_RK1 = scales_for(magnitudes_RKB.amax(-1, keepdim=True), 1.0)
    units_RKB = (magnitudes_RKB * inverse_RK1 * _UNITS).round()
    return units_RKB.sum(-1, keepdim=True) * (1.0 / (_UNITS * x_RKB.shape[-1])) * peak_RK1
