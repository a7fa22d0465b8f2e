"""A model that is trained by workers that come and go, step after step of the same global batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.company import Company
from adamesh.comm.faults import Fault
from adamesh.comm.thread_company import ThreadCompanies, ThreadCompany
from adamesh.sync.base import Schedule
from tests.device import DEVICE

BATCH = 12


class Net(nn.Module):
    """Several buckets, a frozen parameter, one that is used now and then, a scalar and an empty one."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(6, 70)
        self.second = nn.Linear(70, 6)
        self.scale = nn.Parameter(torch.ones(()))
        self.empty = nn.Parameter(torch.ones(0))
        self.odd_steps = nn.Parameter(torch.ones(6))
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))

    def forward(self, x: Tensor, step: int) -> Tensor:
        out = self.second(torch.tanh(self.first(x))) * self.scale + self.empty.sum() + self.frozen(x)
        return out * self.odd_steps if step % 2 else out


@dataclass
class Setting:
    """What a run may vary in."""

    steps: int = 4
    dtype: torch.dtype = torch.float64
    redundancy: int = 2
    sync: Schedule = field(default_factory=adamesh.EveryStep)
    wire: adamesh.Wire = field(default_factory=adamesh.Wire)
    max_grad_norm: float | None = 1.0
    guard: adamesh.Guard | None = None
    rule: Callable[..., Any] = adamesh.AdamW
    own_batches: bool = False
    """Each worker has the same batch, so that it does not matter who takes part."""


@dataclass
class Told:
    """What a worker has to tell at the end."""

    values: dict[str, Tensor]
    optimizer: Any
    made_again: list[int]
    """Steps that were begun more than once."""
    size: int


def train(company: Company, setting: Setting, at_step: Callable[[int], object] = lambda step: None) -> Told:
    """Train as one worker of a company, from wherever it is."""
    model = Net(seed=0).to(DEVICE, setting.dtype)
    plan = adamesh.Plan(
        mesh=company,
        redundancy=setting.redundancy,
        sync=setting.sync,
        wire=setting.wire,
        max_grad_norm=setting.max_grad_norm,
        guard=setting.guard,
        bucket_mb=1e-6,
    )
    optimizer = setting.rule(list(model.named_parameters()), lr=1e-2, plan=plan)
    begun: list[int] = []
    while optimizer.steps_made < setting.steps:
        step = optimizer.steps_made
        begun.append(step)
        at_step(step)
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(2, BATCH, 6, generator=generator, dtype=torch.float64).to(DEVICE, setting.dtype)
        world = optimizer.mesh.world
        share = slice(None) if setting.own_batches else slice(world.rank, None, world.size)
        optimizer.zero_grad()
        error = (model(x[share], step) - y[share]).square().sum() / (BATCH * 6)
        (error * (1 if setting.own_batches else world.size)).backward()
        optimizer.step()
    values = {name: value.detach().clone() for name, value in model.named_parameters()}
    again = [step for step in dict.fromkeys(begun) if begun.count(step) > 1]
    return Told(values, optimizer, again, optimizer.mesh.world.size)


def run(size: int, setting: Setting, faults: Sequence[Fault] = (), newcomers: int = 0) -> tuple[list[Any], list[int]]:
    """Every worker's tale, or what ended it; and how many operations each has launched."""
    companies = ThreadCompanies(size, newcomers, faults)

    def live(company: ThreadCompany) -> Told:
        return train(company, setting)

    return companies.run(live), companies.num_operations


def distance(a: Told, b: Told) -> float:
    """The largest difference of any two elements, as a share of the largest value."""
    largest = max(float(value.abs().max()) for value in a.values.values() if value.numel())
    return max(float((a.values[n] - b.values[n]).abs().max()) for n in a.values if a.values[n].numel()) / largest
