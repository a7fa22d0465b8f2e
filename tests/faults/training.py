"""A training run of a few steps in which things go wrong, and what each worker has to say about it afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from adamesh.comm.base import Mesh
from adamesh.comm.threads import Fault, ThreadWorld
from tests.checkpoint.trainee import Recipe, Snapshot, Trainee

NUM_STEPS = 3
NUM_BUCKETS = 3
MESHES = [(1, 2), (1, 3), (2, 2), (2, 1)]
FLOAT32 = Recipe(torch.float32)

Shape = tuple[int, int]


def mesh_id(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


class Small(nn.Module):
    """Three parameters, each in a bucket of its own."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Linear(6, 13)
        self.second = nn.Linear(13, 6, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))

    def forward(self, x: Tensor, step: int) -> Tensor:
        out: Tensor = self.second(torch.tanh(self.first(x)))
        return out


@dataclass
class Report:
    """What one worker saw: kept outside of it, because it may not live to tell."""

    snapshots: list[Snapshot] = field(default_factory=list)
    """Before the first step and after each one."""
    operations: list[tuple[int, int]] = field(default_factory=list)
    """For each step committed: how many operations this worker had launched when it began, and when it ended."""
    error: BaseException | None = None
    trainee: Trainee | None = None

    @property
    def num_committed(self) -> int:
        return len(self.operations)


@dataclass
class Run:
    """A world of trainees and their reports."""

    shape: Shape
    faults: Sequence[Fault] = ()
    watched: bool = False
    """Take a snapshot around every step."""
    reports: Sequence[Report] = ()

    def go(self, before_step: Callable[[Trainee, int], object] = lambda trainee, step: None) -> "Run":
        """Train; whatever is raised ends that worker and is in its report."""
        world = ThreadWorld(*self.shape, faults=self.faults)
        self.reports = [Report() for _ in range(world.size)]

        def live(mesh: Mesh) -> None:
            report = self.reports[mesh.world.rank]
            try:
                trainee = report.trainee = Trainee(mesh, FLOAT32, model=Small())
                if self.watched:
                    report.snapshots.append(trainee.snapshot())
                for step in range(NUM_STEPS):
                    begun = world.num_operations[mesh.world.rank]
                    before_step(trainee, step)
                    trainee.train(range(step, step + 1))
                    if self.watched:
                        report.snapshots.append(trainee.snapshot())
                    report.operations.append((begun, world.num_operations[mesh.world.rank]))
            except BaseException as error:
                report.error = error

        world.run(live)
        return self

    @property
    def last(self) -> list[Snapshot]:
        """What each worker holds at the end; all must have got as far as to build an optimizer."""
        return [report.trainee.snapshot() for report in self.reports if report.trainee is not None]

    @property
    def errors(self) -> list[BaseException | None]:
        return [report.error for report in self.reports]


@cache
def undisturbed(shape: Shape) -> Run:
    """The run without faults, which tells what each operation is and what each step leads to."""
    run = Run(shape, watched=True).go()
    assert run.errors == [None] * len(run.reports)
    return run


def points(shape: Shape) -> list[tuple[int, int]]:
    """Every (rank, operation) of a run."""
    ends = [report.operations[-1][1] for report in undisturbed(shape).reports]
    return [(rank, operation) for rank, end in enumerate(ends) for operation in range(end)]


@dataclass(frozen=True)
class Moment:
    """What a rank does with one of its operations."""

    step: int
    """-1: it still builds the optimizer."""
    committing: bool
    """The vote is in; the fresh slices are on their way DOWN."""


def moment(shape: Shape, rank: int, operation: int) -> Moment:
    for step, (begin, end) in enumerate(undisturbed(shape).reports[rank].operations):
        if operation < begin:
            break
        if operation < end:
            num_gathers = NUM_BUCKETS if shape[1] > 1 else 0
            return Moment(step, operation >= end - num_gathers)
    return Moment(-1, False)


def island(shape: Shape, rank: int) -> int:
    return rank // shape[1]
