"""Fingerprints of memory: 64 bits that tell one buffer's bits from another's, at about the speed of reading them.

    checksum   sum of the 64-bit words: any change within one word changes it, what swaps or cancels does not
    strong     a polynomial in an odd number down each of many columns, then mixed with the column's place

In the second a change within one word is found for certain as well, since odd numbers are invertible modulo 2^64, and
words that changed places are. Two words that differ in their topmost bit alone, in one column, cancel.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["checksum", "combined", "strong"]

_MASK = 2**64 - 1
_ODD = 0x9E3779B97F4A7C15 - 2**64
_ODD_TOO = 0x165667B19E3779F9
_COLUMNS = 1 << 15
"""Words that are in cache with what is added to them."""
_MOST_ROWS = 1 << 12
"""Beyond that there are more columns: on a GPU each row is a launch."""


def checksum(words: Tensor) -> Tensor:
    """The sum of int64 words modulo 2^64, as an int64 scalar on their device."""
    return words.sum()


def strong(words: Tensor) -> Tensor:
    """A hash of int64 words in which their places count, as an int64 scalar on their device."""
    columns = max(_COLUMNS, -(-words.numel() // _MOST_ROWS))
    columns = min(columns, max(1, words.numel()))
    total = torch.zeros(columns, dtype=torch.int64, device=words.device)
    for row in words.split(columns):
        total.mul_(_ODD)[: len(row)].add_(row)
    place = torch.arange(columns, dtype=torch.int64, device=words.device)
    total.add_(place.mul_(_ODD_TOO))
    # Higher bits into lower ones, so that columns cannot cancel each other bit by bit.
    total.bitwise_xor_((total >> 29) & (2**35 - 1)).mul_(_ODD)
    total.bitwise_xor_((total >> 32) & (2**32 - 1)).mul_(_ODD_TOO)
    return total.sum()


def combined(buffers: Iterable[Tensor], of: Callable[[Tensor], Tensor]) -> int:
    """One number from 0 on below 2^64 for several flat, contiguous buffers of any dtype, in their order."""
    parts = []
    for buffer in buffers:
        whole = buffer.reshape(-1).view(torch.uint8)
        if whole.storage_offset() % 8:
            whole = whole.clone()
        even = whole.numel() // 8 * 8
        parts.append(of(whole[:even].view(torch.int64)))
        if even < whole.numel():
            tail = torch.zeros(8, dtype=torch.uint8, device=whole.device)
            tail[: whole.numel() - even].copy_(whole[even:])
            parts.append(tail.view(torch.int64)[0])
    total = 0
    for number in torch.stack(parts).tolist() if parts else []:  # one wait for the device
        total = (total * _ODD_TOO + number) & _MASK
    return total
