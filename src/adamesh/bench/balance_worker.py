"""The worker of ``adamesh bench balance``: the digits, alone, with equal shares, and with shares by speed."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from adamesh.adam import AdamW
from adamesh.bench.laps import leave
from adamesh.bench.quota import Quota
from adamesh.bench.worker import bar
from adamesh.comm.base import Mesh
from adamesh.comm.local import LocalCommunicator
from adamesh.data.elastic import ElasticSampler
from adamesh.data.sampler import GlobalSampler, share
from adamesh.plan import Plan
from adamesh.tasks.digits import Digits

__all__ = ["ALONE", "BALANCED", "CONTENDERS", "Course", "Lap", "main"]

ALONE, EQUAL, DDP, BALANCED = CONTENDERS = ("alone", "equal shares", "ddp", "balanced")
_TIMEOUT = timedelta(minutes=5)
_UNTIMED = 5
"""Steps at the start: the first are slow, and shares are equal in them."""


@dataclass(frozen=True)
class Course:
    """What is trained, and how fast each worker is."""

    slow: float
    by: str
    sample_s: float
    batch_size: int
    """Of all workers together."""
    steps: int
    rounds: int


@dataclass(frozen=True)
class Lap:
    """What one worker found of one contender."""

    name: str
    samples_per_s: float
    """Its own where it is alone, else all workers' together."""
    counts: list[int]
    """Its samples at each step."""


def main(arguments: Sequence[str]) -> int:
    """Run the course in the file ``arguments[0]``; this worker's laps go beside it."""
    file = Path(arguments[0])
    course = Course(**json.loads(file.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    rank = dist.get_rank()
    driver = Driver(course)
    laps = []
    try:
        with bar(shown=rank == 0) as progress:
            task = progress.add_task("laps", total=course.rounds * len(CONTENDERS))
            for _ in range(course.rounds):
                for name in CONTENDERS:
                    laps.append(driver.lap(name))
                    progress.advance(task)
                    progress.refresh()
    finally:
        driver.close()
    leave(file, rank, laps)
    dist.barrier()
    dist.destroy_process_group()
    return 0


class Driver:
    """Trains this worker's part."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._rank, self._size = dist.get_rank(), dist.get_world_size()
        self._task = Digits()
        self._train = self._task.load_data(None, 0).train
        factor = course.slow if self._rank == self._size - 1 else 1.0
        self._quota = Quota.of_processor(1 / (self._size * factor)) if course.by == "quota" else None
        self._sample_s = course.sample_s * (1.0 if self._quota is not None else factor)

    def lap(self, name: str) -> Lap:
        """One contender, over the course's steps."""
        if name == DDP:
            return self._with_ddp()
        comm = LocalCommunicator()
        mesh = Mesh(comm, comm, comm) if name == ALONE else None
        batch_size = self._course.batch_size // self._size if name == ALONE else self._course.batch_size
        model = self._model()
        optimizer = AdamW(model.named_parameters(), lr=1e-3, plan=Plan(mesh=mesh, balance=name == BALANCED))
        sampler = ElasticSampler(len(self._train), batch_size, optimizer, epochs=1_000_000)
        clock = _Clock(sampler.order)
        for indices in sampler:
            if len(indices):
                (self._loss(model, indices) * sampler.weight).backward()
            optimizer.step()
            optimizer.zero_grad()
            if clock.tick(len(indices)) == self._course.steps:
                break
        return clock.lap(name)

    def _with_ddp(self) -> Lap:
        model = DistributedDataParallel(self._model())
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        order = GlobalSampler(len(self._train), self._course.batch_size, 0)
        clock = _Clock(order)
        for step in range(self._course.steps):
            batch = order.global_batch(step)
            start, stop = share(len(batch), self._rank, self._size)
            self._loss(model, batch[start:stop]).backward()
            optimizer.step()
            optimizer.zero_grad()
            clock.tick(stop - start)
        return clock.lap(DDP)

    def _model(self) -> nn.Module:
        torch.manual_seed(0)
        return self._task.build_model()

    def _loss(self, model: nn.Module, indices: Tensor) -> Tensor:
        """Takes as long as this worker is to take for so many samples."""
        busy_s = self._sample_s * len(indices)
        if self._quota is None:
            time.sleep(busy_s)
        else:
            # Processor time, of which there is a quota: a wait would cost nothing of it.
            until_s = time.process_time() + busy_s
            while time.process_time() < until_s:
                pass
        return self._task.loss(model, self._train.batch(indices))

    def close(self) -> None:
        """Give back the whole processor."""
        if self._quota is not None:
            self._quota.close()


class _Clock:
    """Times the steps of a lap, those at the start left out."""

    def __init__(self, order: GlobalSampler) -> None:
        self._order = order
        self._counts: list[int] = []
        self._began_s = self._ended_s = 0.0
        dist.barrier()

    def tick(self, count: int) -> int:
        """A step was made, with so many samples of this worker; returns how many were."""
        self._counts.append(count)
        self._ended_s = time.perf_counter()
        if len(self._counts) == _UNTIMED:
            self._began_s = self._ended_s
        return len(self._counts)

    def lap(self, name: str) -> Lap:
        """After the last step. Collective."""
        dist.barrier()
        samples = self._order.seen(len(self._counts)) - self._order.seen(_UNTIMED)
        return Lap(name, samples / (self._ended_s - self._began_s), self._counts)
