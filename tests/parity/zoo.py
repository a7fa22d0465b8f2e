"""A model with a parameter of every kind, trained alone by torch and on a mesh by adamesh, and looked at every step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.comm.threads import ThreadWorld
from tests.device import DEVICE
from tests.process_pool import ProcessPool

GLOBAL_BATCH = 24  # for 1, 2, 3 and 4 workers, and two micro-batches each
SMALL, DEFAULT = 1e-3, 25.0
"""MiB a bucket: some parameters are larger than the first, and all together fit into the second."""

FUSED = ("Adam", "AdamW", "SGD")
"""What torch has fused kernels for; the others are compared with its plain ones, its default on the CPU."""

Values = dict[str, Tensor]


class Zoo(nn.Module):
    """Matrices, one larger than a small bucket; scalar, one-element, odd and empty; frozen, seldom and never used."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 7)
        self.large = nn.Linear(7, 43)
        self.outer = nn.Linear(43, 3)
        self.frozen = nn.Linear(5, 3).requires_grad_(False)
        self.scalar = nn.Parameter(torch.empty(()))
        self.odd, self.one, self.empty = (nn.Parameter(torch.empty(length)) for length in (43, 1, 0))
        self.seldom, self.never = (nn.Parameter(torch.empty(length)) for length in (3, 5))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))
        self.to(DEVICE)

    def forward(self, x: Tensor, rare: Tensor) -> Tensor:
        hidden = torch.tanh(self.large(torch.tanh(self.inner(x))) * self.odd)
        out = self.outer(hidden) * self.scalar + self.one + self.frozen(x) + self.empty.sum()
        return out + rare[:, None] * self.seldom if rare.any() else out


@dataclass(frozen=True)
class Recipe:
    """What trainings differ in."""

    dtype: torch.dtype = torch.float64
    rule: str = "AdamW"
    options: Mapping[str, Any] = field(default_factory=dict)
    bucket_mb: float = SMALL
    max_grad_norm: float | None = None
    micro_batches: int = 1
    scheduled: bool = False
    tensor_lr: bool = False

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Two: matrices decay, the rest has a learning rate of its own."""
        matrices = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        return [{"params": matrices, "weight_decay": 0.1}, {"params": others, "lr": self._lr(3e-3)}]

    def build(self, module: Any, model: nn.Module, **more: Any) -> Any:
        """The optimizer of ``module``: ``torch.optim`` or ``adamesh``."""
        options = {"lr": self._lr(1e-2), **self.options, **more}
        return getattr(module, self.rule)(self.groups(model), **options)

    def build_torchs(self, model: nn.Module) -> Any:
        """torch's optimizer by its fused kernel, or else its plain one; on a GPU NAdam's that waits for nothing."""
        if self.rule == "NAdam":
            return self.build(torch.optim, model, capturable=DEVICE.type != "cpu")
        if self.rule not in FUSED:
            return self.build(torch.optim, model, foreach=False)
        optimizer = self.build(torch.optim, model, fused=True)
        if self.rule == "SGD":
            # torch's fused kernel fails where a group has parameters with and without a momentum buffer.
            options = {key: value for key, value in optimizer.defaults.items() if key != "lr"}
            groups = [{**g, "params": [p]} for g in self.groups(model) for p in g["params"]]
            optimizer = torch.optim.SGD(groups, lr=self.options.get("lr", self._lr(1e-2)), **options)
        return optimizer

    def _lr(self, lr: float) -> float | Tensor:
        return torch.tensor(lr) if self.tensor_lr else lr


def batch(step: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Of every three steps, one has no rare sample, one has some on the first worker, one everywhere."""
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(GLOBAL_BATCH, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(GLOBAL_BATCH, 3, generator=generator, dtype=torch.float64)
    rare = torch.arange(GLOBAL_BATCH) < (0, 2, GLOBAL_BATCH)[step % 3]
    return x.to(DEVICE, dtype), y.to(DEVICE, dtype), rare.to(DEVICE, dtype)


def micro_batches(recipe: Recipe, step: int, rank: int, size: int) -> list[tuple[Tensor, ...]]:
    """A worker's share of the batch, in pieces."""
    share = [column.chunk(size)[rank].chunk(recipe.micro_batches) for column in batch(step, recipe.dtype)]
    return list(zip(*share, strict=True))


def loss(forward: Callable[..., Tensor], micro: tuple[Tensor, ...], recipe: Recipe) -> Tensor:
    """The gradients of a share's micro-batches add up to the share's mean."""
    x, y, rare = micro
    return (forward(x, rare) - y).square().mean() / recipe.micro_batches


def history(
    model: nn.Module,
    forward: Callable[..., Tensor],
    optimizer: Any,
    no_sync: Callable[[], AbstractContextManager[None]],
    clip: Callable[[], object],
    recipe: Recipe,
    num_steps: int,
    rank: int,
    size: int,
) -> list[Values]:
    """Train; the parameters after every step."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step if recipe.scheduled else 1.0)
    after = []
    for step in range(num_steps):
        optimizer.zero_grad()
        *early, last = micro_batches(recipe, step, rank, size)
        with no_sync():
            for micro in early:
                loss(forward, micro, recipe).backward()
        loss(forward, last, recipe).backward()
        clip()
        optimizer.step()
        scheduler.step()
        after.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return after


Trained = tuple[list[Values], dict[str, Any]]
"""The parameters after every step, and torch's state dict at the end."""


def alone(recipe: Recipe, num_steps: int, seed: int = 0) -> Trained:
    """torch's optimizer on the whole batch."""
    return _by_torch(Zoo(seed).to(recipe.dtype), None, recipe, num_steps)


def by_ddp(recipe: Recipe, num_steps: int, seed: int = 0) -> Trained:
    """torch's fused optimizer with DDP, on one process of the default group."""
    model = Zoo(seed).to(recipe.dtype)
    return _by_torch(model, DistributedDataParallel(model, find_unused_parameters=True), recipe, num_steps)


def _by_torch(model: nn.Module, ddp: DistributedDataParallel | None, recipe: Recipe, num_steps: int) -> Trained:
    optimizer = recipe.build_torchs(model)
    forward, no_sync = (model, nullcontext) if ddp is None else (ddp, ddp.no_sync)
    rank, size = (0, 1) if ddp is None else (dist.get_rank(), dist.get_world_size())

    def clip() -> None:
        if recipe.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)

    after = history(model, forward, optimizer, no_sync, clip, recipe, num_steps, rank, size)
    return after, optimizer.state_dict()


def on_mesh(mesh: Mesh | None, recipe: Recipe, num_steps: int, seed: int = 0) -> Trained:
    """adamesh on one worker of a mesh, which starts with values of its own that must not count."""
    rank, size = (0, 1) if mesh is None else (mesh.world.rank, mesh.world.size)
    model = Zoo(seed + 1000 * rank).to(recipe.dtype)
    plan = adamesh.Plan(mesh=mesh, bucket_mb=recipe.bucket_mb, max_grad_norm=recipe.max_grad_norm)
    optimizer = recipe.build(adamesh, model, plan=plan)
    after = history(model, model, optimizer, optimizer.no_sync, lambda: None, recipe, num_steps, rank, size)
    return after, optimizer.full_state_dict()


def in_process(shape: tuple[int, int], recipe: Recipe, num_steps: int) -> Trained:
    """`on_mesh` in a worker process."""
    device_mesh = init_device_mesh(DEVICE.type, shape, mesh_dim_names=("replicate", "shard"))
    return on_mesh(process_mesh(device_mesh, DEVICE, 20.0), recipe, num_steps)


@dataclass(frozen=True)
class Workers:
    """``R x S`` workers, as threads or, with a pool, as processes."""

    shape: tuple[int, int]
    pool: ProcessPool | None = None

    def train(self, recipe: Recipe, num_steps: int) -> list[list[Values]]:
        """The history of each worker's parameters, by rank."""
        if self.pool is None:
            results = ThreadWorld(*self.shape).run(on_mesh, recipe, num_steps)
        else:
            size = self.shape[0] * self.shape[1]
            results = self.pool.run(size, in_process, self.shape, recipe, num_steps)
        return [after for after, _ in results]


def identical(a: Tensor, b: Tensor) -> bool:
    """To the bit: NaN is NaN, and 0 is not -0."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(bits(a).cpu(), bits(b).cpu())


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def distance(ours: Sequence[Values], theirs: Sequence[Values]) -> float:
    """The largest difference of any element after any step."""
    pairs = [(a[name], b[name]) for a, b in zip(ours, theirs, strict=True) for name in a if a[name].numel()]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
