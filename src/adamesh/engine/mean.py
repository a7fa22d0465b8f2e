"""The mean of a whole vector over all workers, the same bits on each: for optimizers that need all of it."""

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, chunk
from adamesh.comm.channel import ExactDown, ExactUp
from adamesh.engine.meter import Meter

__all__ = ["Mean"]


class Mean:
    """Owners sum their chunk in rank order; then everybody gathers all chunks.

    Args:
        world: among whom.
        numel: elements of the vector.
        dtype: float32 or float64.
        device: where it lives.
        meter: counts the bytes and the waiting.
    """

    def __init__(self, world: Communicator, numel: int, dtype: torch.dtype, device: torch.device, meter: Meter) -> None:
        self._world = world
        self._numel = numel
        self._meter = meter
        self._up, self._down = ExactUp(world), ExactDown(world)
        padded = -(-numel // world.size) * world.size
        self._send_N = world.allocate(padded, dtype, device)
        self._recv_N = world.allocate(padded, dtype, device) if world.size > 1 else self._send_N

    @property
    def mine(self) -> Tensor:
        """Where to put this worker's vector."""
        return self._send_N[: self._numel]

    @property
    def buffer_bytes(self) -> int:
        """What is allocated."""
        return sum(b.numel() * b.element_size() for b in {id(b): b for b in (self._send_N, self._recv_N)}.values())

    def take(self) -> Tensor:
        """The mean of what all workers put in :attr:`mine`; valid until the next call. Collective."""
        size = self._world.size
        if size > 1:
            self._meter.bytes_up += self._up.bytes_sent(self._send_N)
            self._meter.wait(self._up.launch(self._recv_N, self._send_N))
            self._up.collect(self._recv_N, self._send_N, chunk(self._recv_N, self._world.rank, size), 1 / size)
            self._meter.bytes_down += self._down.bytes_sent(self._recv_N)
            self._meter.wait(self._down.launch(self._recv_N))
        return self._recv_N[: self._numel]
