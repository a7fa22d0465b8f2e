"""Cast: a shorter floating point format, 2 bytes an element."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.blocks import BlockCodec, Section
from adamesh.errors import ConfigurationError

__all__ = ["Cast"]

_GRAIN = 64


@dataclass(frozen=True)
class Cast(BlockCodec):
    """bfloat16 or float16 instead of float32.

    Its blocks are single elements: one that is not finite in ``dtype`` decodes to NaN, its neighbours to themselves.
    float16 has nothing beyond 65504, and zeros below 3e-8.

    Args:
        dtype: torch.bfloat16 (relative error up to 2**-8) or torch.float16 (2**-11, in its range).

    Raises:
        ConfigurationError: another dtype.
    """

    dtype: torch.dtype = torch.bfloat16

    needs_feedback = False

    def __post_init__(self) -> None:
        if self.dtype not in (torch.bfloat16, torch.float16):
            raise ConfigurationError(
                f"Cast({self.dtype}): must be torch.bfloat16 or torch.float16; the former has float32's range"
            )

    @property
    def grain(self) -> int:
        return _GRAIN

    @property
    def sections(self) -> Sequence[Section]:
        return (Section(self.dtype, _GRAIN),)

    def encode_blocks(self, x_RKB: Tensor, parts: Sequence[Tensor], noise_RKB: Tensor | None) -> None:
        (out_RKB,) = parts
        out_RKB.copy_(x_RKB)
        # 0 times an infinity is NaN, and every other number stays what it is.
        out_RKB.add_(out_RKB, alpha=0)

    def decode_blocks(self, parts: Sequence[Tensor], out_RKB: Tensor) -> None:
        (short_RKB,) = parts
        out_RKB.copy_(short_RKB)
