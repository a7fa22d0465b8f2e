"""Noise for stochastic rounding: a pure function of a stream and an element's place in it, the same on any device.

splitmix64 (Steele, Lea & Flood 2014) of a counter; each of its 64-bit words serves four elements.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from adamesh.codecs.base import Stream

__all__ = ["dither", "stochastically_rounded_"]

_PER_WORD = 4
_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def dither(stream: Stream, shape: Sequence[int], device: torch.device) -> Tensor:
    """16 random bits for each element, as int16 of ``shape``, whose elements count from ``stream.start``.

    ``stream.start`` and the number of elements are multiples of 4, as those of whole blocks are.
    """
    numel = math.prod(shape)
    assert numel % _PER_WORD == 0 and stream.start % _PER_WORD == 0
    first = stream.start // _PER_WORD
    words = torch.arange(first + 1, first + numel // _PER_WORD + 1, dtype=torch.int64, device=device)
    words.mul_(_GOLDEN).add_(_signed(stream.key))
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        words.bitwise_xor_(_shifted(words, shift)).mul_(factor)
    words.bitwise_xor_(_shifted(words, 31))
    return words.view(torch.int16).view(*shape)


def stochastically_rounded_(levels: Tensor, noise: Tensor) -> Tensor:
    """Round in place to one of the two neighbours, so that the mean over the noise is the number itself.

    Up to 2**-17: what 16 bits, taken at the middle of what they stand for, can tell apart.
    """
    return levels.add_((noise.float() + 32768.5) * 2.0**-16).floor_()


def _signed(key: int) -> int:
    """The key's last 64 bits, mixed, as an int64: keys that are close give streams that are not."""
    state = torch.tensor((key + (1 << 63)) % (1 << 64) - (1 << 63), dtype=torch.int64, device="cpu")
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        state = (state ^ _shifted(state, shift)) * factor
    return int(state ^ _shifted(state, 31))


def _shifted(state: Tensor, bits: int) -> Tensor:
    """A shift to the right of 64 bits without a sign, which torch's int64 shift would carry along."""
    return (state >> bits).bitwise_and_((1 << (64 - bits)) - 1)
