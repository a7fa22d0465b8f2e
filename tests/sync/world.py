"""Islands that train on gradients to order, as threads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import Fault, ThreadWorld
from adamesh.sync.base import Schedule
from tests.device import DEVICE

SHAPES = {"a": (37, 11), "b": (70,), "c": (), "d": (0,), "e": (129,), "rare": (5,)}
SEVERAL_BUCKETS = 1e-3


def gradient(name: str, step: int, worker: int) -> Tensor:
    """What a worker's backward gives of a parameter."""
    generator = torch.Generator().manual_seed(7919 * step + 31 * worker + sum(map(ord, name)))
    return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64).to(DEVICE) + 0.3


def start(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(len(name))
    return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64).to(DEVICE)


def is_used(name: str, step: int, worker: int) -> bool:
    """One parameter is used by the first worker only, at first."""
    return name != "rare" or (worker == 0 and step > 0) or step > 6


@dataclass
class Islander:
    """One worker."""

    mesh: Mesh
    sync: Schedule
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        options = dict(self.options)
        build = options.pop("build", adamesh.AdamW)
        plan: dict[str, Any] = {"bucket_mb": SEVERAL_BUCKETS}
        plan |= {key: options.pop(key) for key in ("wire", "bucket_mb", "max_grad_norm", "overlap") if key in options}
        self.params = {name: nn.Parameter(start(name).to(self.dtype)) for name in SHAPES}
        plan_ = adamesh.Plan(mesh=self.mesh, sync=self.sync, **plan)
        self.optimizer = build(list(self.params.items()), **{"lr": 1e-2, **options}, plan=plan_)

    def step(self, step: int) -> "Islander":
        self.optimizer.zero_grad()
        for name, param in self.params.items():
            if is_used(name, step, self.mesh.world.rank):
                (param * gradient(name, step, self.mesh.world.rank).to(self.dtype)).sum().backward()
        self.optimizer.step()
        return self

    def train(self, steps: range) -> "Islander":
        for step in steps:
            self.step(step)
        return self

    @property
    def values(self) -> dict[str, Tensor]:
        return {name: param.detach().clone() for name, param in self.params.items()}


def train(shape: tuple[int, int], sync: Schedule, steps: int, faults: Sequence[Fault] = (), **given: Any) -> list[Any]:
    """Every worker's parameters after each step."""

    def law(mesh: Mesh) -> list[dict[str, Tensor]]:
        islander = Islander(mesh, sync, **given)
        return [islander.step(step).values for step in range(steps)]

    return ThreadWorld(*shape, faults=faults).run(law)


def island_gradient(name: str, step: int, island: int, size: int) -> Tensor | None:
    """The mean over an island's workers, zeros from those that do not use the parameter; None if none does."""
    workers = range(island * size, (island + 1) * size)
    found = [gradient(name, step, worker) for worker in workers if is_used(name, step, worker)]
    return torch.stack(found).sum(0) / size if found else None


def alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal to the bit."""
    return all(torch.equal(a[name], b[name]) for name in SHAPES)


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in SHAPES if a[name].numel())
