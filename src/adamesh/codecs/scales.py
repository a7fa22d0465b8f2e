"""Block scales: bfloat16, so that the smallest and the largest gradients have one.

float16 has none for blocks below 1e-8 or so, and float32 would take twice the bytes (at 64 elements a block, 6 % of
an int4 payload) to say more than codes of 8 bits can use. Rounded up, a scale of 8 significant bits clips nothing and
makes steps at most 0.8 % longer.
"""

import torch
from torch import Tensor

__all__ = ["SMALLEST", "scales_for"]

SMALLEST = torch.finfo(torch.float32).tiny
"""A smaller scale is zero: what is not a normal number may be zero on one machine and not on another."""
_LARGEST = torch.finfo(torch.float32).max
_DROPPED_BITS = 0xFFFF


def scales_for(largest: Tensor, qmax: int) -> tuple[Tensor, Tensor]:
    """``scale >= largest / qmax`` that bfloat16 can hold, and ``1 / scale``, both float32.

    A block that is all zeros, or whose scale would be below `SMALLEST`, has scale 0 and inverse 0. Where ``largest``
    is not finite, the scale is NaN, which marks the block, and the inverse is 0.
    """
    exact = largest.float() * (1.0 / qmax)
    bits = (exact.view(torch.int32) + _DROPPED_BITS).bitwise_and(~_DROPPED_BITS)
    scale = torch.where(exact <= _LARGEST, bits.view(torch.float32), float("nan"))
    scale = torch.where(exact < SMALLEST, 0.0, scale)
    return scale, torch.where(scale > 0.0, scale.reciprocal(), 0.0)
