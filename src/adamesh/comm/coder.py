"""Coders: the bytes that a codec makes of one buffer, and what it has held back of it so far.

The payload is the stage of error feedback: as long as a step is not committed the residual is what it was before, so
that there is nothing to undo, and a buffer that is sent again is coded again from the same residual.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from adamesh.codecs.base import Codec, Stream

__all__ = ["Coder", "Run", "Scratch", "clipped", "padding_of", "stream_key"]

Run = tuple[int, int]
"""``(start, stop)``, in elements of a buffer."""


class Scratch:
    """Memory for numbers that nobody needs after the call that made them: one for all coders of an optimizer."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def take(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``numel`` elements of any content; the next call may give the same memory."""
        buffer = self._buffers.get((dtype, device))
        if buffer is None or buffer.numel() < numel:
            buffer = self._buffers[dtype, device] = torch.empty(numel, dtype=dtype, device=device)
        return buffer[:numel]

    @property
    def num_bytes(self) -> int:
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers.values())


class Coder:
    """Codes a flat buffer of ``R`` rows, one for each rank that is going to own one.

    Args:
        codec: how.
        payload_RB: where the bytes go: uint8 [R, codec.payload_bytes(elements of a row)], contiguous.
        residual_N: what was held back, all rows together, in the precision that sums have; None without feedback.
        padding: which elements of the buffer are padding that the codec does not keep at zero.
        scratch: see there.
        decay: share of the residual that is still there the next time.
    """

    def __init__(
        self,
        codec: Codec,
        payload_RB: Tensor,
        residual_N: Tensor | None,
        padding: Tensor,
        scratch: Scratch,
        decay: float = 1.0,
    ) -> None:
        self.codec = codec
        self.payload_RB = payload_RB
        self.residual_N = residual_N
        self._padding = padding
        self._scratch = scratch
        self._decay = decay
        self._coded: tuple[Tensor, float] | None = None

    def encode(self, x_N: Tensor, factor: float, idle: Iterable[Run], stream: Stream) -> None:
        """Write ``factor * x_N`` and the residual as bytes. ``x_N`` must be left alone until the step has ended.

        Args:
            x_N: the buffer, in any floating-point precision; not changed.
            factor: what it must be multiplied by.
            idle: runs of parameters that take no part in this step: their residual stays where it is.
            stream: where stochastic codecs take their numbers from.
        """
        rows = len(self.payload_RB)
        given_N = x_N
        if self.residual_N is not None:
            given_N = self._scratch.take(x_N.numel(), self.residual_N.dtype, x_N.device)
            kept_N = self.residual_N if self._decay == 1.0 else self.residual_N * self._decay
            torch.add(kept_N, x_N, alpha=factor, out=given_N)
            for start, stop in idle:
                given_N[start:stop].zero_()
        elif factor != 1.0:
            given_N = self._scratch.take(x_N.numel(), torch.promote_types(x_N.dtype, torch.float32), x_N.device)
            given_N.copy_(x_N).mul_(factor)
        self.codec.encode(given_N.view(rows, -1), self.payload_RB, stream)
        self._coded = (x_N, factor)

    def commit(self) -> None:
        """What was encoded last has been applied: keep what it lacked."""
        if self.residual_N is None:
            return
        assert self._coded is not None
        x_N, factor = self._coded
        decoded_N = self._scratch.take(x_N.numel(), self.residual_N.dtype, x_N.device)
        self.codec.decode(self.payload_RB, decoded_N.view(len(self.payload_RB), -1))
        # In idle runs all three are what they were: the gradient is zero there, and so is what was sent. (With a decay
        # there are none.)
        if self._decay != 1.0:
            self.residual_N.mul_(self._decay)
        self.residual_N.add_(x_N, alpha=factor).sub_(decoded_N).index_fill_(0, self._padding, 0.0)


def clipped(runs: Iterable[Run], start: int, stop: int) -> Iterator[Run]:
    """The parts of runs inside ``start:stop``, counted from ``start``."""
    for low, high in runs:
        low, high = max(low, start), min(high, stop)
        if low < high:
            yield low - start, high - start


def padding_of(codec: Codec, runs: Iterable[Run], start: int, stop: int, device: torch.device) -> Tensor:
    """Which elements of ``start:stop`` a codec may decode as something else than the zeros they are, from ``start`` on.

    Args:
        codec: the codec.
        runs: where in the bucket its parameters lie; the rest is padding.
        start: of the buffer, in the bucket.
        stop: of the buffer.
        device: where the indices shall be.
    """
    gaps: list[Run] = []
    if not codec.keeps_zeros:
        # A block in which nothing else is stays zero.
        gaps = [(last, last + -last % codec.grain) for _, last in runs]
    indices = [index for low, high in clipped(gaps, start, stop) for index in range(low, high)]
    return torch.tensor(indices, dtype=torch.int64, device=device)


def stream_key(bucket: int, step: int, direction: str, sender: int = 0) -> int:
    """A number that sets one encode's random numbers apart from all others of a run.

    Args:
        bucket: the bucket's index.
        step: the step's number.
        direction: "up", "across", "back" or "down".
        sender: the rank, where every rank codes numbers of its own; where owners code theirs, what sets them apart is
            their place in the bucket, and no rank may enter.
    """
    content = struct.pack("<QQQ", bucket, step, sender) + direction.encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
