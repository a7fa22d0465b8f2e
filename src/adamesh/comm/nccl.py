"""The communicator over NCCL, for CUDA buffers, with short messages of bytes by Gloo."""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from adamesh.comm.base import Communicator, Mailbox, Work, chunk
from adamesh.comm.failure import translated, wait_for
from adamesh.comm.gloo import GlooCommunicator

__all__ = ["NcclCommunicator"]


class NcclCommunicator(Communicator):
    """NCCL's collectives between CUDA buffers; short messages of bytes go by Gloo.

    NCCL reports a lost peer late or never (its watchdog ends the process); what it does raise is translated.

    Args:
        group: an NCCL group that nobody else uses.
        control: a Gloo communicator of the same ranks, for `exchange`.
    """

    sums_natively = True

    def __init__(self, group: dist.ProcessGroup, control: GlooCommunicator) -> None:
        assert (group.rank(), group.size()) == (control.rank, control.size)
        self.rank = group.rank()
        self.size = group.size()
        self._group = group
        self._control = control
        self._num_operations = 0

    def reaches(self, device: torch.device) -> bool:
        return device.type == "cuda"

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros(numel, dtype=dtype, device=device)

    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        # Lists instead of all_to_all_single: an empty own chunk leaves recv_N's own chunk as it was.
        received = [chunk(recv_N, peer, self.size) for peer in range(self.size)]
        sent = [chunk(send_N, peer, self.size) for peer in range(self.size)]
        received[self.rank] = received[self.rank][:0]
        sent[self.rank] = sent[self.rank][:0]
        return self._launch("all_to_all", lambda: dist.all_to_all(received, sent, group=self._group, async_op=True))

    def all_to_all_uneven(self, recv: Sequence[Tensor], send: Sequence[Tensor]) -> Work:
        received = [recv[peer] if peer != self.rank else recv[peer][:0] for peer in range(self.size)]
        sent = [send[peer] if peer != self.rank else send[peer][:0] for peer in range(self.size)]
        return self._launch(
            "all_to_all_uneven", lambda: dist.all_to_all(received, sent, group=self._group, async_op=True)
        )

    def all_gather(self, buffer_N: Tensor) -> Work:
        own_S = chunk(buffer_N, self.rank, self.size)  # NCCL gathers in place when the input lies there
        return self._launch(
            "all_gather",
            lambda: dist.all_gather_single(buffer_N, own_S, group=self._group, async_op=True),
        )

    def reduce_scatter(self, recv_S: Tensor, send_N: Tensor) -> Work:
        return self._launch(
            "reduce_scatter",
            lambda: dist.reduce_scatter_single(recv_S, send_N, group=self._group, async_op=True),
        )

    def broadcast(self, tensor: Tensor, src: int) -> Work:
        return self._launch(
            "broadcast",
            lambda: dist.broadcast(tensor, group=self._group, group_src=src, async_op=True),
        )

    def swap(self, message: bytes) -> list[bytes]:
        return self._control.swap(message)

    def open_mailbox(self) -> Mailbox:
        return self._control.open_mailbox()

    def _launch(self, kind: str, launch: Callable[[], dist.Work | None]) -> Work:
        what = f"{kind} number {self._num_operations} on rank {self.rank} of {self.size} ({self._control.name})"
        self._num_operations += 1
        try:
            work = launch()
        except RuntimeError as error:
            raise translated(error, what) from error
        assert work is not None, f"{what}: this rank is not in the group"
        return NcclWork(work, what)


class NcclWork(Work):
    """One collective; waiting makes the current CUDA stream wait, not the CPU."""

    def __init__(self, work: dist.Work, what: str) -> None:
        self._work = work
        self._what = what

    def wait(self) -> None:
        wait_for([self._work], self._what)
