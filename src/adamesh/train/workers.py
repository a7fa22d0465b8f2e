"""The workers of a run, for the few numbers that the trainer itself has to agree on."""

import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from adamesh.comm.company import Company
from adamesh.errors import ConfigurationError

__all__ = ["CompanyWorkers", "GroupWorkers", "Workers"]


class Workers(ABC):
    """All processes of the run, of which this is number ``rank``."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """This worker's number, from 0."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many there are."""

    @property
    def is_first(self) -> bool:
        """Whether this worker writes what one has to write."""
        return self.rank == 0

    @abstractmethod
    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise sums over all workers, in double precision."""

    def meet(self) -> None:
        """Wait until all have come."""
        self.sum([0.0])

    @abstractmethod
    def gather(self, values: Tensor) -> Tensor:
        """All workers' flat CPU tensors of one dtype, of any lengths, one behind the other in the order of ranks."""

    @abstractmethod
    def from_first(self, values: Sequence[int]) -> list[int]:
        """The first worker's whole numbers; the others pass as many, of any value."""

    @abstractmethod
    def store(self) -> Store | None:
        """Counters and values that all workers share; None for a worker that is alone."""

    @abstractmethod
    def part(self) -> None:
        """Leave in good order. Not for a failed run: a worker that is gone would be waited for."""


class GroupWorkers(Workers):
    """Workers that are the same from the beginning to the end.

    They have a process group of their own, always on the CPU: its collectives never mix with the optimizer's, and
    reading their results never waits for a GPU.
    """

    def __init__(self, rank: int, size: int, group: dist.ProcessGroup | None) -> None:
        self._rank = rank
        self._size = size
        self._group = group

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return self._size

    @classmethod
    def join(
        cls, device: torch.device, timeout_s: float | None, backend: Literal["auto", "nccl", "gloo"] = "auto"
    ) -> "GroupWorkers":
        """Meet the other workers, as torchrun's environment variables say; alone where they say nothing.

        Args:
            device: this worker's.
            timeout_s: how long an operation waits for the others, seconds; None is torch's default.
            backend: what moves the optimizer's buffers; auto is NCCL for GPUs, Gloo for CPUs.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(rank=0, size=1, group=None)
        timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        if device.type == "cuda" and backend != "gloo":
            dist.init_process_group("nccl", timeout=timeout, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=timeout)
        return cls(dist.get_rank(), size, dist.new_group(backend="gloo", timeout=timeout))

    def sum(self, values: Sequence[float]) -> list[float]:
        if self._group is None:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self._group)
        sums: list[float] = tensor.tolist()
        return sums

    def gather(self, values: Tensor) -> Tensor:
        if self._group is None:
            return values
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = values.numel()
        dist.all_reduce(lengths, group=self._group)
        longest = int(lengths.max())
        mine = torch.zeros(longest, dtype=values.dtype)
        mine[: values.numel()] = values
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self._group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)])

    def from_first(self, values: Sequence[int]) -> list[int]:
        if self._group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(tensor, src=0, group=self._group)
        numbers: list[int] = tensor.tolist()
        return numbers

    def store(self) -> Store | None:
        if self._group is None:
            return None
        return PrefixStore("adamesh train", dist.distributed_c10d._get_default_store())

    def part(self) -> None:
        if self._group is not None:
            dist.destroy_process_group()


class CompanyWorkers(Workers):
    """Workers that may be lost, come and go; who they are changes when the optimizer regroups, and only then.

    They talk over the company's own communicator, in turn with the optimizer.
    """

    def __init__(self, company: Company) -> None:
        self.company = company

    @property
    def rank(self) -> int:
        return self.company.formation.world.rank

    @property
    def size(self) -> int:
        return self.company.formation.world.size

    def sum(self, values: Sequence[float]) -> list[float]:
        form = struct.Struct(f"<{len(values)}d")
        messages = self.company.formation.world.exchange(form.pack(*values), "sum")
        return [sum(column) for column in zip(*map(form.unpack, messages), strict=True)]

    def gather(self, values: Tensor) -> Tensor:
        flat = values.contiguous()
        messages = self.company.formation.world.exchange(flat.numpy().tobytes(), "gather")
        return torch.cat([torch.frombuffer(bytearray(m), dtype=flat.dtype) if m else flat[:0] for m in messages])

    def from_first(self, values: Sequence[int]) -> list[int]:
        form = struct.Struct(f"<{len(values)}q")
        first = self.company.formation.world.exchange(form.pack(*values), "from first")[0]
        return list(form.unpack(first))

    def store(self) -> Store | None:
        raise ConfigurationError("workers that come and go share no counters: sync = 'async' is not for them")

    def part(self) -> None:
        return None
