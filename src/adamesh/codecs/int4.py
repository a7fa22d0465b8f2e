"""Int4: 7 steps to either side of zero, with a scale per block, two elements a byte."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.blocks import BlockCodec, Section, check_block
from adamesh.codecs.dither import stochastically_rounded_
from adamesh.codecs.scales import scales_for

__all__ = ["Int4"]

_QMAX = 7
_ZERO = 8
"""The nibble that stands for 0."""


@dataclass(frozen=True)
class Int4(BlockCodec):
    """Symmetric 4-bit blocks: ``scale = max|x| / 7``, ``x`` is sent as ``round(x / scale)``.

    A byte holds an element of the block's first half in its low nibble and the one half a block further in its high
    nibble, so that both are read and written in runs.

    An element is off by at most half a step, 7.2 % of the largest in its block; ``stochastic``: by less than a step,
    and by nothing on the average.

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.
        stochastic: round up or down by chance, in proportion, from the `Stream` that `encode` is given.

    Raises:
        ConfigurationError: another block size.
    """

    block: int = 64
    stochastic: bool = False

    needs_feedback = True

    def __post_init__(self) -> None:
        check_block(self, self.block)

    @property
    def grain(self) -> int:
        return self.block

    @property
    def sections(self) -> Sequence[Section]:
        return (Section(torch.uint8, self.block // 2), Section(torch.bfloat16, 1))

    def encode_blocks(self, x_RKB: Tensor, parts: Sequence[Tensor], noise_RKB: Tensor | None) -> None:
        bytes_RKH, scales_RK1 = parts
        scale_RK1, inverse_RK1 = scales_for(x_RKB.abs().amax(-1, keepdim=True), _QMAX)
        levels_RKB = x_RKB.float() * inverse_RK1
        if noise_RKB is None:
            levels_RKB.round_()
        else:
            # A rounding error beyond the last step is still the last step.
            stochastically_rounded_(levels_RKB, noise_RKB).clamp_(-_QMAX, _QMAX)
        levels_RKB.masked_fill_(scale_RK1.isnan(), 0.0)
        low_RKH, high_RKH = levels_RKB.unflatten(-1, (2, self.block // 2)).unbind(-2)
        # Both nibbles in one float32, where they are exact: cheaper than shifting integers.
        bytes_RKH.copy_(low_RKH + 16.0 * high_RKH + (16.0 * _ZERO + _ZERO))
        scales_RK1.copy_(scale_RK1)

    def decode_blocks(self, parts: Sequence[Tensor], out_RKB: Tensor) -> None:
        bytes_RKH, scales_RK1 = parts
        shift_2H = torch.tensor([[0], [4]], dtype=torch.uint8, device=bytes_RKH.device)
        nibbles_RK2H = (bytes_RKH.unsqueeze(-2) >> shift_2H) & 15
        levels_RKB = (nibbles_RK2H.float() - _ZERO).flatten(-2)
        out_RKB.copy_(levels_RKB * scales_RK1.float())
