"""A small model with every kind of parameter, trained for a few steps on any mesh, and looked at to the bit."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import adamesh
from adamesh.checkpoint.disk import Disk
from adamesh.checkpoint.save import save_on
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from tests.device import DEVICE

GLOBAL_BATCH = 12  # can be cut over 1, 2, 3, 4 and 6 workers
EACH_ITS_OWN_BUCKET = 1e-6
ALL_IN_ONE_BUCKET = 25


class Net(nn.Module):
    """Of each kind one: matrix, bias, scalar, empty, tied, frozen, never used, used now and then; and a buffer."""

    def __init__(self, seed: int = 0, width: int = 11) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.second = nn.Linear(width, 6)
        self.tied = nn.Linear(width, 6)
        self.tied.weight = self.second.weight
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))
        self.empty = nn.Parameter(torch.ones(0))
        self.never = nn.Parameter(torch.ones(5))
        self.odd_steps = nn.Parameter(torch.ones(6))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(torch.randn(value.shape, generator=generator))

    def forward(self, x: Tensor, step: int) -> Tensor:
        self.seen.add_(GLOBAL_BATCH)
        hidden = torch.tanh(self.first(x))
        out = self.second(hidden) * self.scale + self.tied(hidden) + self.frozen(x) + self.empty.sum()
        return out * self.odd_steps if step % 2 else out


@dataclass(frozen=True)
class Recipe:
    """What a run may vary in."""

    dtype: torch.dtype = torch.float64
    bucket_mb: float = EACH_ITS_OWN_BUCKET
    amsgrad: bool = False
    max_grad_norm: float | None = 1.0
    wire: adamesh.Wire = field(default_factory=adamesh.Wire)


@dataclass(frozen=True)
class Snapshot:
    """A worker's model and optimizer as they were, in memory of their own."""

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Snapshot)
        return difference(self.model, other.model) is None and difference(self.optimizer, other.optimizer) is None

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Whole:
    """All workers' snapshots as one, without what depends on how state is cut."""

    model: Mapping[str, Tensor]
    state: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Whole)
        return difference(self.model, other.model) is None and difference(self.state, other.state) is None

    __hash__ = None  # type: ignore[assignment]

    def distance(self, other: "Whole") -> float:
        """The largest difference of any two elements; step counts must be the same."""
        assert self.state.keys() == other.state.keys()
        pairs = [(tensor, other.model[name]) for name, tensor in self.model.items()]
        for name, entry in self.state.items():
            assert entry["step"] == other.state[name]["step"], name
            pairs += [(value, other.state[name][key]) for key, value in entry.items() if key != "step"]
        return max(float((a.double() - b.double()).abs().max()) for a, b in pairs if a.numel())


class Trainee:
    """One worker's model and optimizer; names are the model's, in two groups with and without decay."""

    def __init__(self, mesh: Mesh, recipe: Recipe = Recipe(), seed: int = 0, model: nn.Module | None = None) -> None:
        self.mesh = mesh
        self.recipe = recipe
        self.model = (Net(seed) if model is None else model).to(DEVICE, recipe.dtype)
        named = list(self.model.named_parameters())
        groups: list[dict[str, Any]] = [
            {"params": [(name, p) for name, p in named if p.dim() > 1], "weight_decay": 0.1},
            {"params": [(name, p) for name, p in named if p.dim() <= 1], "lr": 3e-3},
        ]
        plan = adamesh.Plan(mesh=mesh, wire=recipe.wire, bucket_mb=recipe.bucket_mb, max_grad_norm=recipe.max_grad_norm)
        self.optimizer = adamesh.AdamW(groups, lr=1e-2, amsgrad=recipe.amsgrad, plan=plan)

    def backward(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(2, GLOBAL_BATCH, 6, generator=generator, dtype=torch.float64).to(DEVICE, self.recipe.dtype)
        mine = slice(self.mesh.world.rank, None, self.mesh.world.size)
        self.optimizer.zero_grad()
        (self.model(x[mine], step) - y[mine]).square().mean().backward()

    def train(self, steps: range) -> "Trainee":
        for step in steps:
            self.backward(step)
            self.optimizer.step()
        return self

    def save(self, folder: Path, disk: Disk | None = None, **extra: Any) -> "Trainee":
        if disk is None:
            adamesh.save(folder, self.model, self.optimizer, **extra)
        else:
            save_on(disk, folder, self.model, self.optimizer, extra)
        return self

    def load(self, folder: Path) -> "Trainee":
        adamesh.load(folder, self.model, self.optimizer)
        return self

    def snapshot(self) -> Snapshot:
        model = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        return Snapshot(model, copy.deepcopy(self.optimizer.state_dict()))


def whole(snapshots: Sequence[Snapshot]) -> Whole:
    """Put the runs of all workers together; replicas must be the same, and islands must hold the same."""
    assert all(difference(snapshots[0].model, other.model) is None for other in snapshots)
    state: dict[str, dict[str, Any]] = {}
    for name, entry in snapshots[0].optimizer["state"].items():
        runs = [s.optimizer["state"][name] for s in snapshots]
        assert all(run["step"] == entry["step"] for run in runs)
        by_start = {run["start"]: run for run in runs if "start" in run}
        keys = [key for key, value in next(iter(by_start.values()), {}).items() if isinstance(value, Tensor)]
        state[name] = {"step": entry["step"]}
        state[name] |= {key: torch.cat([by_start[at][key] for at in sorted(by_start)]) for key in keys}
    return Whole(snapshots[0].model, state)


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """Where two nested records part, compared to the bit; None if nowhere."""
    if isinstance(a, Tensor):
        return None if isinstance(b, Tensor) and _bits(a) == _bits(b) else where
    if isinstance(a, Mapping):
        if a.keys() != b.keys():
            return f"{where} (keys)"
        return next((d for key in a if (d := difference(a[key], b[key], f"{where}/{key}")) is not None), None)
    return None if a == b else where


def _bits(tensor: Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
    return tensor.dtype, tensor.shape, tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes()


def trained(shape: tuple[int, int], steps: range, recipe: Recipe = Recipe(), **folders: Path) -> Whole:
    """What workers hold after these steps; with ``load=`` from there, with ``save=`` leaving it there."""

    def live(mesh: Mesh) -> Snapshot:
        # A worker that loads starts from other values, so that whatever is not loaded shows.
        trainee = Trainee(mesh, recipe, seed=99 if "load" in folders else 0)
        if "load" in folders:
            trainee.load(folders["load"])
        trainee.train(steps)
        if "save" in folders:
            trainee.save(folders["save"])
        return trainee.snapshot()

    return whole(ThreadWorld(*shape).run(live))
