"""The communicator of a worker that is alone: every collective is complete before it is launched."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Completed, Mailbox, Work

__all__ = ["LocalCommunicator"]


class LocalMailbox(Mailbox):
    """Nobody writes, because nobody else is there."""

    rank = 0
    size = 1

    def post(self, letter: Tensor, to: int) -> Work:
        raise NotImplementedError("one rank has nobody to write to")

    def receive_any(self, buffer: Tensor) -> int:
        raise NotImplementedError("nobody writes to a rank that is alone")

    def answer(self, letter: Tensor, to: int, line: int) -> Work:
        raise NotImplementedError("one rank has nobody to answer")

    def await_answer(self, buffer: Tensor, of: int, line: int) -> Work:
        raise NotImplementedError("nobody answers a rank that is alone")


class LocalCommunicator(Communicator):
    """Size 1: nothing moves, since a rank's own chunk never does."""

    rank = 0
    size = 1
    sums_natively = False

    def reaches(self, device: torch.device) -> bool:
        return True

    def allocate(self, numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.zeros(numel, dtype=dtype, device=device)

    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        assert recv_N.numel() == send_N.numel(), (recv_N.numel(), send_N.numel())
        return Completed()

    def all_to_all_uneven(self, recv: Sequence[Tensor], send: Sequence[Tensor]) -> Work:
        assert len(recv) == len(send) == 1, (len(recv), len(send))
        return Completed()

    def all_gather(self, buffer_N: Tensor) -> Work:
        return Completed()

    def reduce_scatter(self, recv_S: Tensor, send_N: Tensor) -> Work:
        raise NotImplementedError("one rank does not sum natively; read its contribution from send_N")

    def broadcast(self, tensor: Tensor, src: int) -> Work:
        assert src == 0, src
        return Completed()

    def swap(self, message: bytes) -> list[bytes]:
        return [message]

    def open_mailbox(self) -> Mailbox:
        return LocalMailbox()
