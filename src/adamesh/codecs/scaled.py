"""Codecs that write a block as one scale and a code of 8, 4, 2 or 1 bits for each element."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from adamesh.codecs.blocks import BlockCodec, Section, check_block
from adamesh.codecs.dither import stochastically_rounded_
from adamesh.codecs.scales import scales_for

__all__ = ["ScaledBlocks", "rounded"]


@dataclass(frozen=True)
class ScaledBlocks(BlockCodec):
    """A codec given by an element's code, and by what a code stands for in units of the block's scale.

    A byte holds elements that are ``bits * block / 8`` apart: those of the block's first part in its lowest bits, those
    of the second above them, and so on, so that every part is read and written in runs.

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.

    Raises:
        ConfigurationError: another block size.
    """

    block: int = 64

    compiles = True

    def __post_init__(self) -> None:
        check_block(self, self.block)

    @property
    @abstractmethod
    def bits(self) -> int:
        """Of a code: 8, 4, 2 or 1."""

    @property
    def code_dtype(self) -> torch.dtype:
        """What a byte of codes is."""
        return torch.uint8

    @abstractmethod
    def codes_of(self, x_RKB: Tensor, noise_RKB: Tensor | None) -> tuple[Tensor, Tensor]:
        """Whole numbers that ``bits`` bits can hold, [R, K, B], and scales [R, K, 1], NaN to mark a block; all float32.

        What the codes of a marked block are does not matter. ``x_RKB`` is left as it is.
        """

    @abstractmethod
    def levels_of(self, codes: Tensor) -> Tensor:
        """What codes, given as float32, stand for in units of the scale."""

    @final
    @property
    def grain(self) -> int:
        return self.block

    @final
    @property
    def sections(self) -> Sequence[Section]:
        return (Section(self.code_dtype, self.block * self.bits // 8), Section(torch.bfloat16, 1))

    @final
    def encode_blocks(self, x_RKB: Tensor, parts: Sequence[Tensor], noise_RKB: Tensor | None) -> None:
        bytes_RKH, scales_RK1 = parts
        codes_RKB, scale_RK1 = self.codes_of(x_RKB.float(), noise_RKB)
        codes_RKB = codes_RKB.masked_fill_(scale_RK1.isnan(), 0.0)
        # Put together in float32, where they are exact, and by halves: cheaper than shifting integers, part by part.
        parts_left = 8 // self.bits
        while parts_left > 1:
            parts_left //= 2
            low, high = codes_RKB.chunk(2, dim=-1)
            codes_RKB = torch.add(low, high, alpha=1 << parts_left * self.bits)
        bytes_RKH.copy_(codes_RKB)
        scales_RK1.copy_(scale_RK1)

    @final
    def decode_blocks(self, parts: Sequence[Tensor], out_RKB: Tensor) -> None:
        bytes_RKH, scales_RK1 = parts
        scale_RK1 = scales_RK1.float()
        if self.bits == 8:
            out_RKB.copy_(self.levels_of(bytes_RKH.float()) * scale_RK1)
        elif torch.compiler.is_compiling():
            # One pass over the output. Masks and factors, because compiled shifts check their operands.
            mask_P1, factor_P1 = self._places(bytes_RKH.device)
            codes_RKPH = (bytes_RKH.unsqueeze(-2) & mask_P1).float() * factor_P1
            out_RKB.copy_(self.levels_of(codes_RKPH).flatten(-2) * scale_RK1)
        else:
            # The same numbers part by part: as passes over all of it, several times faster than broadcast.
            for part, out_RKH in enumerate(out_RKB.chunk(8 // self.bits, dim=-1)):
                codes_RKH = (bytes_RKH >> part * self.bits) & ((1 << self.bits) - 1)
                out_RKH.copy_(self.levels_of(codes_RKH.float()) * scale_RK1)

    def _places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """For each part of a byte: its bits, uint8 [P, 1], and what they must be multiplied by, float32 [P, 1]."""
        shifts = range(0, 8, self.bits)
        masks = [[((1 << self.bits) - 1) << shift] for shift in shifts]
        factors = [[2.0**-shift] for shift in shifts]
        return torch.tensor(masks, dtype=torch.uint8, device=device), torch.tensor(factors, device=device)


def rounded(x_RKB: Tensor, qmax: int, noise_RKB: Tensor | None) -> tuple[Tensor, Tensor]:
    """``x / scale`` in whole numbers from -qmax to qmax, and ``scale = max|x| / qmax`` as `scales_for` has it.

    All is float32. Without noise they are rounded to the nearest, with it to either neighbour, right on the average.
    """
    scale_RK1, inverse_RK1 = scales_for(x_RKB.abs().amax(-1, keepdim=True), 1.0 / qmax)
    levels_RKB = x_RKB * inverse_RK1
    if noise_RKB is None:
        levels_RKB.round_()
    else:
        # A rounding error beyond the last step is still the last step.
        stochastically_rounded_(levels_RKB, noise_RKB).clamp_(-qmax, qmax)
    return levels_RKB, scale_RK1
