"""Int8: 127 steps to either side of zero, with a scale per block; 1 byte and a little per element."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.blocks import BlockCodec, Section, check_block
from adamesh.codecs.dither import stochastically_rounded_
from adamesh.codecs.scales import scales_for

__all__ = ["Int8"]

_QMAX = 127


@dataclass(frozen=True)
class Int8(BlockCodec):
    """Symmetric 8-bit blocks: ``scale = max|x| / 127``, ``x`` is sent as ``round(x / scale)``.

    An element is off by at most half a step, 0.4 % of the largest in its block; ``stochastic``: by less than a step,
    and by nothing on the average.

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.
        stochastic: round up or down by chance, in proportion, from the `Stream` that `encode` is given.

    Raises:
        ConfigurationError: another block size.
    """

    block: int = 64
    stochastic: bool = False

    needs_feedback = False

    def __post_init__(self) -> None:
        check_block(self, self.block)

    @property
    def grain(self) -> int:
        return self.block

    @property
    def sections(self) -> Sequence[Section]:
        return (Section(torch.int8, self.block), Section(torch.bfloat16, 1))

    def encode_blocks(self, x_RKB: Tensor, parts: Sequence[Tensor], noise_RKB: Tensor | None) -> None:
        codes_RKB, scales_RK1 = parts
        scale_RK1, inverse_RK1 = scales_for(x_RKB.abs().amax(-1, keepdim=True), _QMAX)
        levels_RKB = x_RKB.float() * inverse_RK1
        if noise_RKB is None:
            levels_RKB.round_()
        else:
            # A rounding error beyond the last step is still the last step.
            stochastically_rounded_(levels_RKB, noise_RKB).clamp_(-_QMAX, _QMAX)
        codes_RKB.copy_(levels_RKB.masked_fill_(scale_RK1.isnan(), 0.0))
        scales_RK1.copy_(scale_RK1)

    def decode_blocks(self, parts: Sequence[Tensor], out_RKB: Tensor) -> None:
        codes_RKB, scales_RK1 = parts
        out_RKB.copy_(codes_RKB * scales_RK1.float())
