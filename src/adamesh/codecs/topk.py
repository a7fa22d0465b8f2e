"""Top-k: the largest elements of each chunk, with their places (Lin et al. 2018, in fixed numbers per chunk)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.blocks import BlockCodec, Section
from adamesh.errors import ConfigurationError

__all__ = ["TopK"]

_CHUNK = 4096


@dataclass(frozen=True)
class TopK(BlockCodec):
    """The ``density * 4096`` elements of largest magnitude of every 4096, as bfloat16; the others are zero.

    So many of each chunk, however large they are, so that a payload's size is known beforehand, and each owner gets as
    much as any other.

    Args:
        density: the share of elements that are sent, above 0 and up to 1; 4 bytes each.

    Raises:
        ConfigurationError: another density.
    """

    density: float

    needs_feedback = True

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ConfigurationError(f"TopK(density={self.density}): must be above 0 and at most 1, as in 0.01")

    @property
    def grain(self) -> int:
        return _CHUNK

    @property
    def kept(self) -> int:
        """How many elements of a chunk are sent."""
        return max(round(self.density * _CHUNK), 1)

    @property
    def sections(self) -> Sequence[Section]:
        return (Section(torch.int16, self.kept), Section(torch.bfloat16, self.kept))

    def encode_blocks(self, x_RKB: Tensor, parts: Sequence[Tensor], noise_RKB: Tensor | None) -> None:
        places_RKk, values_RKk = parts
        # A NaN is larger than any number to topk, so it is among those that are sent.
        found_RKk = x_RKB.abs().topk(self.kept, dim=-1, sorted=False).indices
        values = x_RKB.gather(-1, found_RKk).to(torch.bfloat16)
        places_RKk.copy_(found_RKk)
        values_RKk.copy_(values.masked_fill(values.isinf(), float("nan")))

    def decode_blocks(self, parts: Sequence[Tensor], out_RKB: Tensor) -> None:
        places_RKk, values_RKk = parts
        out_RKB.zero_().scatter_(-1, places_RKk.long(), values_RKk.to(out_RKB.dtype))
