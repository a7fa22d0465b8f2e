"""Buffers on a GPU over a communicator that moves the host's memory: Gloo's, a company's, threads'.

For GPUs without NCCL between them (several workers on one GPU, workers that come and go, a GPU of another make on
each machine). What is sent is copied to pinned host memory when a collective is launched, which waits until the GPU has
computed it; what has come is copied back when it is waited for, on the current stream, which waits for nobody.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Mailbox, Mesh, Work, chunk

__all__ = ["StagedCommunicator", "mesh_reaching", "reaching"]


def reaching(comm: Communicator, device: torch.device) -> Communicator:
    """The communicator if it moves buffers on that kind of device itself; else one that does, by way of the host."""
    return comm if comm.reaches(device) else StagedCommunicator(comm, device)


def mesh_reaching(mesh: Mesh, device: torch.device) -> Mesh:
    """The mesh for buffers on a device; axes that share a communicator still do."""
    of = {comm: reaching(comm, device) for comm in (mesh.world, mesh.replicate, mesh.shard)}
    return Mesh(of[mesh.world], of[mesh.replicate], of[mesh.shard])


class StagedCommunicator(Communicator):
    """The collectives of another communicator, for buffers on a device that it does not reach.

    Args:
        inner: moves host memory.
        device: where the buffers are.
    """

    sums_natively = False

    def __init__(self, inner: Communicator, device: torch.device) -> None:
        self.rank = inner.rank
        self.size = inner.size
        self._inner = inner
        self._type = device.type

    def reaches(self, device: torch.device) -> bool:
        return device.type == self._type

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros(numel, dtype=dtype, device=device)

    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        received, sent = _host_like(recv_N), _host_like(send_N)
        for there, here in zip(self._others(sent), self._others(send_N), strict=True):
            there.copy_(here, non_blocking=True)
        _wait_for_copies(send_N)
        work = self._inner.all_to_all(received, sent)
        return StagedWork(work, self._others(recv_N), self._others(received))

    def all_to_all_uneven(self, recv: Sequence[Tensor], send: Sequence[Tensor]) -> Work:
        received = [_host_like(tensor) for tensor in recv]
        copies: dict[int, Tensor] = {}  # the same tensor may go to several ranks
        for rank, tensor in enumerate(send):
            if rank != self.rank and id(tensor) not in copies:
                copies[id(tensor)] = _host_like(tensor).copy_(tensor, non_blocking=True)
        _wait_for_copies(*send)
        sent = [copies[id(t)] if rank != self.rank else _host_like(t[:0]) for rank, t in enumerate(send)]
        work = self._inner.all_to_all_uneven(received, sent)
        others = [rank for rank in range(self.size) if rank != self.rank]
        return StagedWork(work, [recv[rank] for rank in others], [received[rank] for rank in others])

    def all_gather(self, buffer_N: Tensor) -> Work:
        host_N = _host_like(buffer_N)
        chunk(host_N, self.rank, self.size).copy_(chunk(buffer_N, self.rank, self.size), non_blocking=True)
        _wait_for_copies(buffer_N)
        return StagedWork(self._inner.all_gather(host_N), self._others(buffer_N), self._others(host_N))

    def reduce_scatter(self, recv_S: Tensor, send_N: Tensor) -> Work:
        raise NotImplementedError("the host does not sum; use all_to_all and sum the chunks")

    def broadcast(self, tensor: Tensor, src: int) -> Work:
        host = _host_like(tensor)
        if self.rank != src:
            return StagedWork(self._inner.broadcast(host, src), [tensor], [host])
        host.copy_(tensor.detach(), non_blocking=True)
        _wait_for_copies(tensor)
        return self._inner.broadcast(host, src)

    def swap(self, message: bytes) -> list[bytes]:
        return self._inner.swap(message)

    def open_mailbox(self) -> Mailbox:
        return self._inner.open_mailbox()

    def _others(self, buffer_N: Tensor) -> list[Tensor]:
        """What lies before and behind this rank's own chunk, as views."""
        length = buffer_N.numel() // self.size
        return [buffer_N[: self.rank * length], buffer_N[(self.rank + 1) * length :]]


class StagedWork(Work):
    """A collective between copies.

    Args:
        work: moves the copies.
        targets: where they go once they have come.
        copies: as many, on the host.
    """

    def __init__(self, work: Work, targets: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
        self._work = work
        self._targets = targets
        self._copies = copies

    def wait(self) -> None:
        self._work.wait()
        # Not again: the buffer may be in use for something else by then.
        for target, copy in zip(self._targets, self._copies, strict=True):
            # `.data`: a network writes memory without autograd's or the version counter's knowledge, so do we.
            target.data.copy_(copy, non_blocking=True)
        self._targets = self._copies = ()


def _host_like(tensor: Tensor) -> Tensor:
    # Pinned memory is kept by torch for the next one, but not before copies from and to it are through.
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)


def _wait_for_copies(*tensors: Tensor) -> None:
    if tensors and tensors[0].is_cuda:
        torch.cuda.current_stream(tensors[0].device).synchronize()
