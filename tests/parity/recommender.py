"""A small model of every kind of table, its data, and the ways to train it: adamesh on a mesh, torch alone."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from tests.device import DEVICE

GLOBAL_BATCH = 12  # can be cut over 1, 2, 3 and 4 workers
NUM_ITEMS = 23

Values = Mapping[str, Tensor]


class Recommender(nn.Module):
    """Two tables of items with the same ids, one of bags, and dense layers; ``sparse`` is the tables'."""

    def __init__(self, dtype: torch.dtype = torch.float64, sparse: bool = True) -> None:
        super().__init__()
        self.items = nn.Embedding(NUM_ITEMS, 3, sparse=sparse, dtype=dtype)
        self.popularity = nn.Embedding(NUM_ITEMS, 1, sparse=sparse, dtype=dtype)
        self.genres = nn.EmbeddingBag(7, 3, mode="sum", sparse=sparse, dtype=dtype)
        self.head = nn.Linear(6, 1, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator, dtype=torch.float64))
        self.to(DEVICE)

    def forward(self, ids: Tensor, bags: Tensor) -> Tensor:
        hidden = torch.cat([self.items(ids), self.genres(bags)], dim=1)
        out: Tensor = torch.tanh(self.head(hidden)) + self.popularity(ids)
        return out.squeeze(1).double()


def loss_share(model: Callable[[Tensor, Tensor], Tensor], step: int, rank: int = 0, size: int = 1) -> Tensor:
    """One of ``size`` workers' part of a step's loss, times ``size``: the mean over workers is the global mean."""
    generator = torch.Generator().manual_seed(step)
    # Some items are common and some are rare, so that rows are last seen one step ago, ten, or never.
    ids = (NUM_ITEMS * torch.rand(GLOBAL_BATCH, generator=generator) ** 4).long()
    bags = torch.randint(0, 7, (GLOBAL_BATCH, 2), generator=generator)
    targets = torch.randn(GLOBAL_BATCH, generator=generator, dtype=torch.float64).to(DEVICE)
    mine = slice(rank, None, size)
    errors = model(ids[mine].to(DEVICE), bags[mine].to(DEVICE)) - targets[mine]
    return errors.square().sum() * (size / GLOBAL_BATCH)


def cosine(step: int) -> float:
    """What the learning rate is multiplied by: it changes in every step, and much."""
    return 0.55 + 0.45 * math.cos(step / 7)


@dataclass(frozen=True)
class Recipe:
    """What a run may vary in."""

    mode: str
    steps: int = 20
    dtype: torch.dtype = torch.float64
    options: Mapping[str, Any] | None = None
    of_tables: Mapping[str, Any] | None = None
    """Options of the sparse group."""
    decoupled: bool = True
    max_grad_norm: float | None = None

    def optimizer(self, model: nn.Module, mesh: Mesh | None) -> adamesh.MeshOptimizer:
        plan = adamesh.Plan(mesh=mesh, max_grad_norm=self.max_grad_norm, bucket_mb=1e-5)
        groups = adamesh.param_groups(model, self.mode, **(self.of_tables or {}))
        build = adamesh.AdamW if self.decoupled else adamesh.Adam
        return build(groups, **{"lr": 0.05, **(self.options or {})}, plan=plan)


def take_steps(mesh: Mesh, model: nn.Module, optimizer: adamesh.MeshOptimizer, steps: range) -> None:
    """Train with a schedule."""
    initial = [0.05 for _ in optimizer.param_groups]
    for step in steps:
        for group, lr in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = lr * cosine(step)
        loss_share(model, step, mesh.world.rank, mesh.world.size).backward()
        optimizer.step()
        optimizer.zero_grad()


def values(model: nn.Module) -> Values:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def on_mesh(shape: tuple[int, int], recipe: Recipe) -> Values:
    """Parameters at the end, which are the same on all workers."""

    def live(mesh: Mesh) -> Values:
        model = Recommender(recipe.dtype)
        optimizer = recipe.optimizer(model, mesh)
        take_steps(mesh, model, optimizer, range(recipe.steps))
        optimizer.flush()
        return values(model)

    first, *others = ThreadWorld(*shape).run(live)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first), "replicas have parted"
    return dict(first)


def by_torch(recipe: Recipe, build: Callable[[nn.Module], list[torch.optim.Optimizer]], sparse: bool) -> Values:
    """Parameters at the end of the same training in one process, by torch's own optimizers."""
    model = Recommender(recipe.dtype, sparse)
    optimizers = build(model)
    for step in range(recipe.steps):
        loss_share(model, step).backward()
        if recipe.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * cosine(step)
            optimizer.step()
            optimizer.zero_grad()
    return values(model)


def apart(ours: Values, theirs: Values) -> float:
    """The largest difference of any element."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)
