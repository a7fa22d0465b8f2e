"""Sign: one bit an element, with a scale per block (Seide et al. 2014; Bernstein et al. 2018, with feedback)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.blocks import BlockCodec, Section, check_block
from adamesh.codecs.scales import scales_for

__all__ = ["Sign"]


@dataclass(frozen=True)
class Sign(BlockCodec):
    """``x`` is sent as plus or minus the mean of ``|x|`` in its block; zeros too, unless all of the block are.

    Element ``i`` of an eighth of the block is bit ``i`` of a byte, so that bits are read and written in runs.

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.

    Raises:
        ConfigurationError: another block size.
    """

    block: int = 64

    needs_feedback = True
    keeps_zeros = False

    def __post_init__(self) -> None:
        check_block(self, self.block)

    @property
    def grain(self) -> int:
        return self.block

    @property
    def sections(self) -> Sequence[Section]:
        return (Section(torch.uint8, self.block // 8), Section(torch.bfloat16, 1))

    def encode_blocks(self, x_RKB: Tensor, parts: Sequence[Tensor], noise_RKB: Tensor | None) -> None:
        bytes_RKH, scales_RK1 = parts
        # The mean of |x| may overflow where x does not; not finite is what the scale then says.
        scale_RK1, _ = scales_for(x_RKB.float().abs().mean(-1, keepdim=True), 1)
        bits_RK8H = (x_RKB >= 0).to(torch.uint8).unflatten(-1, (8, self.block // 8))
        shift_81 = torch.arange(8, dtype=torch.uint8, device=x_RKB.device).unsqueeze(-1)
        bytes_RKH.copy_((bits_RK8H << shift_81).sum(-2, dtype=torch.uint8))
        scales_RK1.copy_(scale_RK1)

    def decode_blocks(self, parts: Sequence[Tensor], out_RKB: Tensor) -> None:
        bytes_RKH, scales_RK1 = parts
        shift_81 = torch.arange(8, dtype=torch.uint8, device=bytes_RKH.device).unsqueeze(-1)
        bits_RK8H = (bytes_RKH.unsqueeze(-2) >> shift_81) & 1
        out_RKB.copy_((bits_RK8H.float() * 2 - 1).flatten(-2) * scales_RK1.float())
