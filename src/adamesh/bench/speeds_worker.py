"""The worker of ``adamesh bench async``: the digits, alone, every step together, and at everybody's own speed."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from adamesh.adam import AdamW
from adamesh.bench.laps import leave
from adamesh.bench.worker import bar
from adamesh.comm.base import Mesh
from adamesh.comm.local import LocalCommunicator
from adamesh.plan import Plan
from adamesh.sync.asynchronous import Async
from adamesh.sync.base import Schedule
from adamesh.sync.every_step import EveryStep
from adamesh.tasks.digits import Digits

__all__ = ["ALONE", "TOGETHER", "Course", "Lap", "main", "name_of"]

ALONE, TOGETHER = "alone", "every-step"
_TIMEOUT = timedelta(minutes=5)
_STEPS_ALONE = 25


@dataclass(frozen=True)
class Course:
    """What is trained, how fast and how far."""

    staleness: tuple[int, ...]
    slow: float
    step_s: float
    batch_size: int
    samples: int
    lr: float
    seeds: int


@dataclass(frozen=True)
class Lap:
    """What one worker found of one contender and seed."""

    name: str
    seed: int
    samples: int
    """That this worker trained on,"""
    accepted: float
    """and of them, those whose gradients were accepted."""
    seconds: float
    """Until this worker knew that enough had been accepted."""
    all_accepted: float
    """By then, of all workers."""
    test_loss: float
    staleness: dict[str, int]


def name_of(staleness: int) -> str:
    """A contender's name."""
    return f"async-{staleness}"


def main(arguments: Sequence[str]) -> int:
    """Run the course in the file ``arguments[0]``; this worker's laps go beside it."""
    file = Path(arguments[0])
    plain = json.loads(file.read_text(encoding="utf-8"))
    course = Course(**{**plain, "staleness": tuple(plain["staleness"])})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=_TIMEOUT)
    rank = dist.get_rank()
    driver = Driver(course)
    contenders = [TOGETHER, *(name_of(staleness) for staleness in course.staleness)]
    laps = []
    with bar(shown=rank == 0) as progress:
        task = progress.add_task("laps", total=course.seeds * (1 + len(contenders)))
        for seed in range(course.seeds):
            for name in (ALONE, *contenders):
                laps.append(driver.alone(seed) if name == ALONE else driver.lap(name, seed))
                progress.advance(task)
                progress.refresh()
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
        self._splits = self._task.load_data(None, 0)
        slow = self._rank == self._size - 1
        self._pause_s = course.step_s * (course.slow if slow else 1.0)

    def alone(self, seed: int) -> Lap:
        """This worker's own speed, while the others find theirs."""
        comm = LocalCommunicator()
        model, optimizer = self._built(seed, EveryStep(), Mesh(comm, comm, comm))
        self._step(model, optimizer, seed, 0)
        dist.barrier()
        began_s = time.perf_counter()
        for step in range(1, 1 + _STEPS_ALONE):
            self._step(model, optimizer, seed, step)
        seconds = time.perf_counter() - began_s
        dist.barrier()
        samples = _STEPS_ALONE * self._course.batch_size
        return Lap(ALONE, seed, samples, samples, seconds, samples, self._test_loss(model), {})

    def lap(self, name: str, seed: int) -> Lap:
        """One contender, until enough samples have been accepted of all workers together."""
        course = self._course
        together = name == TOGETHER
        schedule: Schedule = EveryStep() if together else Async(int(name.removeprefix("async-")))
        model, optimizer = self._built(seed, schedule, None)
        counter = PrefixStore(f"{name} {seed}", dist.distributed_c10d._get_default_store())
        optimizer.serve()
        dist.barrier()
        began_s = time.perf_counter()
        step, accepted, seen = 0, 0.0, 0
        while seen < course.samples:
            self._step(model, optimizer, seed, step)
            step += 1
            pushes = optimizer.stats().pushes
            gained = course.batch_size * (1.0 if pushes is None else pushes.accepted_share)
            accepted += gained
            # A step together is everybody's; counted by each alone, some would stop before others.
            seen = step * course.batch_size * self._size if together else _added(counter, gained)
        seconds = time.perf_counter() - began_s
        pushes = optimizer.stats().pushes
        optimizer.flush()
        loss = self._test_loss(model)
        histogram = {} if pushes is None else {str(far): count for far, count in pushes.staleness.items()}
        dist.barrier()
        return Lap(name, seed, step * course.batch_size, accepted, seconds, seen, loss, histogram)

    def _built(self, seed: int, schedule: Schedule, mesh: Mesh | None) -> tuple[nn.Module, AdamW]:
        torch.manual_seed(seed)
        model = self._task.build_model()
        plan = Plan(mesh=mesh, sync=schedule)
        return model, AdamW(model.named_parameters(), lr=self._course.lr, plan=plan)

    def _step(self, model: nn.Module, optimizer: AdamW, seed: int, step: int) -> None:
        generator = torch.Generator().manual_seed((seed * 1_000_000 + step) * self._size + self._rank)
        indices = torch.randint(len(self._splits.train), (self._course.batch_size,), generator=generator)
        self._task.loss(model, self._splits.train.batch(indices)).backward()
        time.sleep(self._pause_s)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def _test_loss(self, model: nn.Module) -> float:
        test = self._splits.test
        model.eval()
        metrics = self._task.metrics(model, test.batch(torch.arange(len(test))))
        return float(metrics["loss"]) / len(test)


def _added(counter: Store, gained: float) -> int:
    """Add samples to what all have; returns the sum. The store counts whole thousandths."""
    return int(counter.add("accepted", round(1000 * gained))) // 1000
