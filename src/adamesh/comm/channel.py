"""Channels: how one kind of tensor moves UP to its owners or DOWN to everybody, along one axis of the mesh.

These move numbers as they are; `adamesh.comm.coder` makes bytes of them first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Work, chunk

__all__ = ["ExactDown", "ExactUp", "state_dtype", "sum_in_rank_order"]

_BLOCK = 1 << 17
"""Elements of a tensor summed, scaled and squared at a time, so that all three happen in the CPU's cache."""


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """What sums, masters, moments and residuals are kept in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class ExactUp:
    """Gradients to their owners, uncompressed: each rank ends with the sum of its chunk over the axis."""

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def bytes_sent(self, send_N: Tensor) -> int:
        """What this rank puts on the wire for one launch."""
        return send_N.numel() * send_N.element_size() // self.comm.size * (self.comm.size - 1)

    def launch(self, recv_N: Tensor, send_N: Tensor) -> Work:
        """Start moving; ``send_N`` and ``recv_N`` must be left alone until the work is waited for."""
        if self._natively(send_N):
            return self.comm.reduce_scatter(chunk(recv_N, self.comm.rank, self.comm.size), send_N)
        return self.comm.all_to_all(recv_N, send_N)

    def collect(self, recv_N: Tensor, send_N: Tensor, out_S: Tensor, scale: float) -> float | Tensor:
        """After the wait: ``out_S = scale * sum of the ranks' chunks``; returns its sum of squares.

        ``out_S`` is float32 (float64 for float64 gradients) and may be ``recv_N``'s own chunk.
        """
        rank, size = self.comm.rank, self.comm.size
        own_S = chunk(recv_N, rank, size)
        if self._natively(send_N):
            return sum_in_rank_order([own_S], out_S, scale)
        chunks = [chunk(send_N if i == rank else recv_N, i, size) for i in range(size)]
        return sum_in_rank_order(chunks, out_S, scale)

    def _natively(self, send_N: Tensor) -> bool:
        """Whether the backend sums: not in bfloat16 or float16, whose sums would be rounded, or overflow."""
        return self.comm.sums_natively and send_N.dtype in (torch.float32, torch.float64)


class ExactDown:
    """Fresh slices from their owners to everybody, uncompressed and in place."""

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def bytes_sent(self, buffer_N: Tensor) -> int:
        """What this rank puts on the wire for one launch."""
        return buffer_N.numel() * buffer_N.element_size() // self.comm.size * (self.comm.size - 1)

    def launch(self, buffer_N: Tensor) -> Work:
        """Start filling all chunks of ``buffer_N``; this rank's own chunk is what it gives."""
        return self.comm.all_gather(buffer_N)


def sum_in_rank_order(chunks: Sequence[Tensor], out_S: Tensor, scale: float) -> float | Tensor:
    """``out_S = scale * (((c_0 + c_1) + c_2) + ...)`` in ``out_S``'s precision; returns ``sum(out_S ** 2)``.

    The order is the ranks', never the arrival's, so the result is the same on every run. ``out_S`` may be one of
    the chunks if there is only one, or share no memory with them.
    """
    if out_S.device.type != "cpu":
        _sum_block(chunks, out_S, scale)
        norm: Tensor = torch.linalg.vector_norm(out_S, dtype=torch.float64)
        return norm.square()
    total = 0.0
    for start in range(0, out_S.numel(), _BLOCK):
        stop = min(start + _BLOCK, out_S.numel())
        block = out_S[start:stop]
        _sum_block([c[start:stop] for c in chunks], block, scale)
        squares = float(torch.dot(block, block))
        # float32 squares overflow from 1e19 on; only then is the slower exact sum worth its price.
        total += squares if squares < float("inf") else float(torch.dot(block.double(), block.double()))
    return total


def _sum_block(chunks: Sequence[Tensor], out: Tensor, scale: float) -> None:
    first = chunks[0]
    if len(chunks) > 1 and first.dtype == out.dtype:
        torch.add(first, chunks[1], out=out)
        rest = chunks[2:]
    else:
        if first.data_ptr() != out.data_ptr():
            out.copy_(first)
        rest = chunks[1:]
    for term in rest:
        out.add_(term)
    if scale != 1.0:
        out.mul_(scale)
