"""Codecs that write a row block by block: where each block's numbers lie in the payload.

A row of ``K`` blocks of ``B`` elements becomes a few *sections*, one after the other, such as all codes, then all
scales. Each section holds the same number of numbers of one dtype for every block and is padded to 8 bytes, so that
it can be seen as a tensor of its dtype; and a payload's size is a function of ``K`` alone.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from adamesh.codecs.base import Codec, Stream
from adamesh.codecs.dither import dither
from adamesh.errors import ConfigurationError, LayoutError

__all__ = ["BlockCodec", "Section", "check_block"]

_ALIGNMENT = 8
"""Bytes: that of the widest dtype a section may have."""
_BLOCKS = (64, 256)


@dataclass(frozen=True)
class Section:
    """What a payload holds of every block: ``width`` numbers of ``dtype``."""

    dtype: torch.dtype
    width: int

    def num_bytes(self, num_blocks: int) -> int:
        """Of that many blocks, without padding."""
        return num_blocks * self.width * self.dtype.itemsize


class BlockCodec(Codec):
    """A codec given by what it makes of blocks: ``_RKB`` is R rows of K blocks of ``grain`` elements each."""

    stochastic: bool = False
    """Whether `encode_blocks` is given noise to round with."""

    compiles: bool = False
    """Whether compiling its arithmetic pays and changes no bit (`adamesh.codecs.compiled`)."""

    @property
    @abstractmethod
    def sections(self) -> Sequence[Section]:
        """What a payload holds, in its order."""

    @abstractmethod
    def encode_blocks(self, x_RKB: Tensor, parts: Sequence[Tensor], noise_RKB: Tensor | None) -> None:
        """Write every element of ``parts``, one [R, K, width] view of the payload for each section.

        Row by row, without the axis R, it must come to the same: that is how it is compiled.
        ``noise_RKB`` is `adamesh.codecs.dither.dither`'s, and None for a codec that is not stochastic.
        """

    @abstractmethod
    def decode_blocks(self, parts: Sequence[Tensor], out_RKB: Tensor) -> None:
        """Write ``out_RKB`` from the views that `encode_blocks` filled."""

    @final
    def payload_bytes(self, numel: int) -> int:
        num_blocks = self._num_blocks(numel)
        return sum(_padded(section.num_bytes(num_blocks)) for section in self.sections)

    @final
    def encode(self, x_RN: Tensor, out_RB: Tensor, stream: Stream) -> None:
        if not x_RN.numel():
            return
        parts = self.parts_of(out_RB, x_RN)
        x_RKB = self.blocks_of(x_RN)
        noise_RKB = dither(stream, x_RKB.shape, x_RN.device) if self.stochastic else None
        self.encode_blocks(x_RKB, parts, noise_RKB)

    @final
    def decode(self, payload_RB: Tensor, out_RN: Tensor) -> None:
        if out_RN.numel():
            self.decode_blocks(self.parts_of(payload_RB, out_RN), self.blocks_of(out_RN))

    @final
    def blocks_of(self, x_RN: Tensor) -> Tensor:
        """Rows as blocks, [R, K, grain]; a view where the rows are contiguous."""
        num_rows, numel = x_RN.shape
        return x_RN.reshape(num_rows, self._num_blocks(numel), self.grain)

    @final
    def parts_of(self, payload_RB: Tensor, x_RN: Tensor) -> list[Tensor]:
        """Views of the payload of these rows, [R, K, width] for each section; what lies between them is set to zero.

        Raises:
            LayoutError: the payload is of another size, or not contiguous uint8.
        """
        num_rows, numel = x_RN.shape
        expected = (num_rows, self.payload_bytes(numel))
        if tuple(payload_RB.shape) != expected or payload_RB.dtype != torch.uint8 or not payload_RB.is_contiguous():
            raise LayoutError(
                f"a payload of {payload_RB.dtype} {tuple(payload_RB.shape)}, strides {payload_RB.stride()}, does not "
                f"fit {num_rows} rows of {numel} elements: {self} takes contiguous torch.uint8 {expected}"
            )
        num_blocks = self._num_blocks(numel)
        parts, start = [], 0
        for section in self.sections:
            stop = start + section.num_bytes(num_blocks)
            part = payload_RB[:, start:stop].view(section.dtype)
            parts.append(part.unflatten(1, (num_blocks, section.width)))
            start += _padded(stop - start)
            payload_RB[:, stop:start].zero_()
        return parts

    def _num_blocks(self, numel: int) -> int:
        if numel % self.grain:
            raise LayoutError(
                f"a row of {numel} elements is not whole blocks of {self.grain} for {self}; pad it with zeros to "
                f"{numel + -numel % self.grain}"
            )
        return numel // self.grain


def check_block(codec: object, block: int) -> None:
    """Refuse a block size that layouts cannot keep to."""
    least, most = _BLOCKS
    if block % least or not least <= block <= most:
        raise ConfigurationError(
            f"{codec}: block={block} must be a multiple of {least} from {least} to {most}; the nearest is "
            f"{min(max(round(block / least) * least, least), most)}"
        )


def _padded(num_bytes: int) -> int:
    return num_bytes + -num_bytes % _ALIGNMENT
