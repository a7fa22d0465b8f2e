"""Modules that are the same on every worker: what the optimizer does not cover, buffers above all.

Every function is collective over all workers of the default process group, and does nothing without one.
"""

import torch
from torch import Tensor, nn

from adamesh.comm.base import Communicator
from adamesh.comm.process_group import shared_mesh
from adamesh.comm.staged import reaching

__all__ = ["average_buffers", "broadcast_buffers", "broadcast_module"]


def broadcast_module(module: nn.Module, comm: Communicator | None = None) -> None:
    """Give every worker the first worker's parameters and buffers.

    Args:
        module: the same on every worker, on one device.
        comm: among whom; None: the default process group.
    """
    _broadcast([*module.parameters(), *module.buffers()], comm)


def broadcast_buffers(module: nn.Module, comm: Communicator | None = None) -> None:
    """Give every worker the first worker's buffers: among workers that come and go, for those who have just come.

    Args:
        module: the same on every worker, on one device.
        comm: among whom; None: the default process group.
    """
    _broadcast(list(module.buffers()), comm)


def average_buffers(module: nn.Module, comm: Communicator | None = None) -> None:
    """Replace floating-point buffers (batch-norm statistics) by their mean, others by the first worker's.

    Workers see different batches, so their running statistics differ; call this before evaluating or saving.
    The mean is summed in rank order, in float32 or float64, so that every worker ends with the same bits.

    Args:
        module: the same on every worker, on one device.
        comm: among whom; None: the default process group.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.numel()]
    comm = _among(comm, buffers)
    if comm.size == 1:
        return
    with torch.no_grad():
        for buffer in buffers:
            if buffer.is_floating_point():
                precision = torch.float64 if buffer.dtype == torch.float64 else torch.float32
                gathered = comm.allocate(comm.size * buffer.numel(), precision, buffer.device).view(comm.size, -1)
                gathered[comm.rank].copy_(buffer.reshape(-1))
                comm.all_gather(gathered.view(-1)).wait()
                total = gathered[0]
                for other in gathered[1:]:
                    total.add_(other)
                buffer.copy_(total.div_(comm.size).view(buffer.shape))
            else:
                value = buffer.contiguous()
                comm.broadcast(value, src=0).wait()
                buffer.copy_(value)


def _broadcast(tensors: list[Tensor], comm: Communicator | None) -> None:
    comm = _among(comm, tensors)
    with torch.no_grad():
        for tensor in tensors:
            value = tensor.detach().contiguous()
            comm.broadcast(value, src=0).wait()
            tensor.copy_(value)


def _among(comm: Communicator | None, tensors: list[Tensor]) -> Communicator:
    device = tensors[0].device if tensors else torch.device("cpu")
    return shared_mesh(device).world if comm is None else reaching(comm, device)
