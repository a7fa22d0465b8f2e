"""Workers that train over a coded wire, as threads; and the table of what a wire can be given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import adamesh
from adamesh.codecs.base import Codec
from adamesh.codecs.coding import Coding
from adamesh.comm.base import Communicator, Mesh, Work
from adamesh.comm.threads import Fault, ThreadWorld
from tests.device import DEVICE

CODECS: Mapping[str, Codec] = {
    "bf16": adamesh.Cast(torch.bfloat16),
    "fp16": adamesh.Cast(torch.float16),
    "int8": adamesh.Int8(),
    "int4": adamesh.Int4(),
    "int4-256-stochastic": adamesh.Int4(block=256, stochastic=True),
    "int2": adamesh.Int2(),
    "sign": adamesh.Sign(),
    "topk": adamesh.TopK(density=0.01),
}
"""One line for each codec; the whole battery runs on all of them."""

SHAPES = [(1, 1), (1, 3), (2, 2)]


def uplink(codec: Codec) -> Coding:
    """The codec as it may travel UP."""
    return adamesh.Feedback(codec) if codec.needs_feedback else codec


def both_ways(codec: Codec) -> adamesh.Wire:
    """The codec wherever numbers travel."""
    return adamesh.Wire(up=uplink(codec), down=codec, across=uplink(codec))


WIRES = {name: both_ways(codec) for name, codec in CODECS.items()}
WIRES |= {f"lowrank-{rank}": adamesh.Wire(up=adamesh.LowRank(rank), down=adamesh.Int8()) for rank in (1, 4)}


class Odd(nn.Module):
    """Parameters of no convenient size: a matrix, a bias, a scalar, one that is empty, one that is used at times."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.empty(37, 11))
        self.bias = nn.Parameter(torch.empty(11))
        self.scalar = nn.Parameter(torch.empty(()))
        self.empty = nn.Parameter(torch.empty(0))
        self.rare = nn.Parameter(torch.empty(70))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 4)
        self.to(DEVICE, dtype)

    def forward(self, x: Tensor, with_rare: bool) -> Tensor:
        out = (x @ self.matrix + self.bias) * self.scalar + self.empty.sum()
        return out + self.rare.sum() if with_rare else out


@dataclass
class Worker:
    """One worker's model, optimizer and data."""

    mesh: Mesh
    wire: adamesh.Wire
    dtype: torch.dtype = torch.float32
    options: Mapping[str, Any] | None = None
    bucket_mb: float = 1e-3
    compiled: bool = False

    def __post_init__(self) -> None:
        options = dict(self.options or {})
        plan = adamesh.Plan(
            mesh=self.mesh,
            wire=self.wire,
            bucket_mb=self.bucket_mb,
            compile=self.compiled,
            max_grad_norm=options.pop("max_grad_norm", None),
            overlap=options.pop("overlap", True),
        )
        self.model = Odd(self.dtype)
        self.optimizer = adamesh.AdamW(self.model.named_parameters(), plan=plan, **{"lr": 1e-2, **options})

    def backward(self, step: int, factor: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(1000 * step + self.mesh.world.rank)
        x = torch.randn(16, 37, generator=generator).to(DEVICE, self.dtype)
        target = x[:, :11] * 3 - 1
        (((self.model(x, step % 3 == 1) - target) ** 2).mean() * factor).backward()

    def train(self, steps: range) -> "Worker":
        for step in steps:
            self.optimizer.zero_grad()
            self.backward(step)
            self.optimizer.step()
        return self

    @property
    def values(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    @property
    def residuals(self) -> dict[tuple[str, str], Tensor]:
        """What this worker's codecs hold back, by kind and parameter, flat, with zeros for what others hold."""
        found: dict[str, dict[str, Any]] = self.optimizer.state_dict().get("residuals", {})
        whole = {
            (kind, name): torch.zeros_like(p.detach().view(-1))
            for kind in ("up", "across", "back")
            for name, p in self.model.named_parameters()
        }
        for key, entry in found.items():
            kind, name = key.removeprefix("residual_").split("/")
            whole[kind, name][entry["start"] : entry["stop"]] = entry[f"residual_{kind}"]
        return whole


def train(shape: tuple[int, int], wire: adamesh.Wire, steps: int = 3, faults: list[Fault] | None = None, **given: Any):
    """The parameters of every worker after some steps."""

    def law(mesh: Mesh) -> dict[str, Tensor]:
        return Worker(mesh, wire, **given).train(range(steps)).values

    return ThreadWorld(*shape, faults=faults or ()).run(law)


def alike(a: Mapping[Any, Tensor], b: Mapping[Any, Tensor]) -> bool:
    """Equal to the bit."""
    return a.keys() == b.keys() and all(
        torch.equal(a[k].reshape(-1).view(torch.uint8), b[k].reshape(-1).view(torch.uint8)) for k in a
    )


class Counted:
    """A communicator that counts the bytes of what it is given to send to others."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self.num_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def all_to_all(self, recv_N: Tensor, send_N: Tensor) -> Work:
        return self._count(self._comm.all_to_all(recv_N, send_N), send_N)

    def all_gather(self, buffer_N: Tensor) -> Work:
        return self._count(self._comm.all_gather(buffer_N), buffer_N)

    def _count(self, work: Work, sent_N: Tensor) -> Work:
        self.num_bytes += sent_N.numel() * sent_N.element_size() // self._comm.size * (self._comm.size - 1)
        return work


def counted(mesh: Mesh) -> tuple[Mesh, Callable[[], int]]:
    """The mesh, and what it has moved since it was last asked."""
    comms = {id(comm): Counted(comm) for comm in (mesh.shard, mesh.replicate)}

    def moved() -> int:
        total = sum(comm.num_bytes for comm in comms.values())
        for comm in comms.values():
            comm.num_bytes = 0
        return total

    shard, replicate = (comms[id(comm)] for comm in (mesh.shard, mesh.replicate))
    return Mesh(world=mesh.world, replicate=replicate, shard=shard), moved  # type: ignore[arg-type]
