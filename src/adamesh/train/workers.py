"""The workers of a run, for the few numbers that the trainer itself has to agree on."""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

__all__ = ["Workers"]


class Workers:
    """All processes of the run, of which this is number ``rank``.

    It has a process group of its own, always on the CPU: its collectives never mix with the optimizer's,
    and reading their results never waits for a GPU.
    """

    def __init__(self, rank: int, size: int, group: dist.ProcessGroup | None) -> None:
        self.rank = rank
        self.size = size
        self._group = group

    @classmethod
    def join(cls, device: torch.device, timeout_s: float | None) -> "Workers":
        """Meet the other workers, as torchrun's environment variables say; alone where they say nothing."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(rank=0, size=1, group=None)
        timeout = None if timeout_s is None else timedelta(seconds=timeout_s)
        if device.type == "cuda":
            dist.init_process_group("nccl", timeout=timeout, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=timeout)
        return cls(dist.get_rank(), size, dist.new_group(backend="gloo", timeout=timeout))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Elementwise sums over all workers, in double precision."""
        if self._group is None:
            return [float(value) for value in values]
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self._group)
        sums: list[float] = tensor.tolist()
        return sums

    def gather(self, values: Tensor) -> Tensor:
        """All workers' flat CPU tensors of one dtype, of any lengths, one behind the other in the order of ranks."""
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
        """The first worker's whole numbers; the others pass as many, of any value."""
        if self._group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.int64)
        dist.broadcast(tensor, src=0, group=self._group)
        numbers: list[int] = tensor.tolist()
        return numbers

    def store(self) -> Store | None:
        """Counters and values that all workers share; None for a worker that is alone."""
        if self._group is None:
            return None
        return PrefixStore("adamesh train", dist.distributed_c10d._get_default_store())

    def part(self) -> None:
        """Leave in good order. Not for a failed run: a worker that is gone would be waited for."""
        if self._group is not None:
            dist.destroy_process_group()
