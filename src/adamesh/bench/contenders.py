"""The ways of taking a training step that are compared, and their twins that do not communicate.

All take the same step (`Contender.step`) on the same model; they differ in what wraps the model and in what
follows backward.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

from adamesh.adam import AdamW as MeshAdamW
from adamesh.bench.models import Workload
from adamesh.company.terms import Terms
from adamesh.company.workers import Workers
from adamesh.plan import Plan

__all__ = ["KINDS", "Contender", "Kind", "build"]

# Small steps: rounding differences between contenders must not grow into different trajectories.
SETTINGS: Mapping[str, Any] = {"lr": 1e-6, "weight_decay": 1e-2}
SEED = 0


class Update(Protocol):
    """What follows backward; every optimizer is one."""

    def step(self) -> object:
        """Change the parameters."""

    def zero_grad(self) -> object:
        """Leave no gradients."""


@dataclass(frozen=True)
class Contender:
    """A model on this worker, and a way to train it."""

    workload: Workload
    module: nn.Module
    update: Update
    state_bytes: Callable[[], int]
    """Optimizer state on this worker."""
    bytes_sent: Callable[[], int]
    """What a worker, on the average of all, sent in the last step."""
    waited_s: Callable[[], float] | None = None
    """Seconds of the last step that the optimizer itself says it waited; None: it does not say."""

    def step(self, batch: tuple[Tensor, Tensor]) -> None:
        """One training step, in the same order for all."""
        inputs, targets = batch
        self.workload.loss(self.module(inputs), targets).backward()
        self.update.step()
        self.update.zero_grad()

    def whole_parameters(self) -> list[Tensor]:
        """Every parameter in order; a collective, because some contenders keep them in pieces."""
        return [p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in self.module.parameters()]


@dataclass(frozen=True)
class Kind:
    """One way of training."""

    says: str
    """What it is, for the table's legend."""
    build: Callable[[Workload, nn.Module], Contender]
    twin: str | None = None
    """The kind that does this one's local work and does not communicate; None: this one does not either."""
    sends: str = ""
    """What `Contender.bytes_sent` computes: W workers, P bytes of parameters, B of them inside blocks."""


def build(name: str, workload: Workload, device: torch.device) -> Contender:
    """A contender on this worker's device; collective. All start from the same parameters."""
    torch.manual_seed(SEED)
    return KINDS[name].build(workload, workload.build().to(device))


def adamesh(workload: Workload, model: nn.Module) -> Contender:
    return _adamesh(workload, model, Plan())


def company(workload: Workload, model: nn.Module) -> Contender:
    return _adamesh(workload, model, Plan(mesh=_meet("company")))


def redundant(workload: Workload, model: nn.Module) -> Contender:
    return _adamesh(workload, model, Plan(mesh=_meet("redundant"), redundancy=2))


def _meet(name: str) -> Workers:
    store = PrefixStore(name, dist.distributed_c10d._get_default_store())
    return Workers.found(store, dist.get_rank(), dist.get_world_size(), Terms(host="127.0.0.1", token=name))


def _adamesh(workload: Workload, model: nn.Module, plan: Plan) -> Contender:
    optimizer = MeshAdamW(model.named_parameters(), **SETTINGS, plan=plan)

    def bytes_sent() -> int:
        stats = optimizer.stats()
        return stats.bytes_up + stats.bytes_down + stats.bytes_control

    return Contender(
        workload,
        model,
        optimizer,
        state_bytes=lambda: optimizer.stats().state_bytes,
        bytes_sent=bytes_sent,
        waited_s=lambda: optimizer.stats().comm_exposed_s,
    )


def ddp(workload: Workload, model: nn.Module) -> Contender:
    module = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = AdamW(module.parameters(), fused=True, **SETTINGS)
    return _of_torch(workload, module, optimizer, optimizer, 2 * bytes_of(model.parameters()))


def zero(workload: Workload, model: nn.Module) -> Contender:
    # Here, because its package warns on import: it uses torch.jit, which torch itself deprecates.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    module = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = ZeroRedundancyOptimizer(
        module.parameters(), AdamW, parameters_as_bucket_view=True, fused=True, **SETTINGS
    )
    return _of_torch(workload, module, optimizer, optimizer.optim, 3 * bytes_of(model.parameters()))


def fsdp2(workload: Workload, model: nn.Module) -> Contender:
    # Gloo's reduce-scatter is an all-reduce: 2 P, and 1 P for the parameters before forward.
    traffic = 3 * bytes_of(model.parameters())
    return _fsdp2(workload, model, traffic, reshard_after_forward=False)


def fsdp2_reshard(workload: Workload, model: nn.Module) -> Contender:
    in_blocks = bytes_of(model.blocks.parameters())  # type: ignore[union-attr]
    traffic = 3 * bytes_of(model.parameters()) + in_blocks
    return _fsdp2(workload, model, traffic, reshard_after_forward=True)


def _fsdp2(workload: Workload, model: nn.Module, traffic: int, *, reshard_after_forward: bool) -> Contender:
    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for block in model.blocks:  # type: ignore[union-attr]
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard_after_forward)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    optimizer = AdamW(model.parameters(), fused=True, **SETTINGS)
    return _of_torch(workload, model, optimizer, optimizer, traffic)


def floor(workload: Workload, model: nn.Module) -> Contender:
    return Contender(workload, model, Nothing(model), state_bytes=lambda: 0, bytes_sent=lambda: 0)


def local(workload: Workload, model: nn.Module) -> Contender:
    optimizer = AdamW(model.parameters(), fused=True, **SETTINGS)
    return _of_torch(workload, model, optimizer, optimizer, 0)


def local_share(workload: Workload, model: nn.Module) -> Contender:
    update = Share(model, dist.get_world_size())
    return _of_torch(workload, model, update, update.optimizer, 0)


def _of_torch(workload: Workload, module: nn.Module, update: Update, optimizer: Optimizer, traffic: int) -> Contender:
    """One whose state is in ``optimizer``, sending (W - 1) / W of ``traffic``."""
    workers = dist.get_world_size()
    sent = traffic * (workers - 1) // workers
    return Contender(workload, module, update, state_bytes=lambda: bytes_of_state(optimizer), bytes_sent=lambda: sent)


class Nothing:
    """No update."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def step(self) -> None:
        return None

    def zero_grad(self) -> None:
        self._model.zero_grad()


class Share:
    """AdamW on the first of ``workers`` equal parts of every parameter, the others left alone."""

    def __init__(self, model: nn.Module, workers: int) -> None:
        self._model = model
        self._parts = [(p, nn.Parameter(p.detach().view(-1)[: -(-p.numel() // workers)])) for p in model.parameters()]
        self.optimizer = AdamW([part for _, part in self._parts], fused=True, **SETTINGS)

    def step(self) -> None:
        for whole, part in self._parts:
            assert whole.grad is not None
            part.grad = whole.grad.view(-1)[: part.numel()]
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()
        self._model.zero_grad()


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def bytes_of_state(optimizer: Optimizer) -> int:
    """Every tensor that the optimizer keeps, as far as it lies on this worker."""
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return bytes_of(value.to_local() if isinstance(value, DTensor) else value for value in kept)


KINDS: Mapping[str, Kind] = {
    "adamesh": Kind("adamesh.AdamW on the plain model", adamesh, twin="local-share", sends="counted by the optimizer"),
    "adamesh-elastic": Kind(
        "the same among workers that may be lost, come and go: Plan(mesh=company)",
        company,
        twin="local-share",
        sends="counted by the optimizer",
    ),
    "adamesh-elastic-2": Kind(
        "the same with each slice of state kept twice: Plan(mesh=company, redundancy=2)",
        redundant,
        twin="local-share",
        sends="counted by the optimizer",
    ),
    "ddp": Kind(
        "DistributedDataParallel(gradient_as_bucket_view=True) + AdamW(fused=True)",
        ddp,
        twin="local",
        sends="2 P (W-1)/W, ring all-reduce",
    ),
    "zero": Kind(
        "the same DDP + ZeroRedundancyOptimizer(AdamW, fused=True, parameters_as_bucket_view=True)",
        zero,
        twin="local-share",
        sends="3 P (W-1)/W, all-reduce and broadcasts",
    ),
    "fsdp2": Kind(
        "fully_shard(reshard_after_forward=False) on every block and the root + AdamW(fused=True)",
        fsdp2,
        twin="local-share",
        sends="3 P (W-1)/W, all-gather and reduce-scatter, which Gloo does as an all-reduce",
    ),
    "fsdp2-reshard": Kind(
        "the same with reshard_after_forward=True for the blocks",
        fsdp2_reshard,
        twin="local-share",
        sends="(3 P + B) (W-1)/W, as fsdp2 with the blocks gathered twice",
    ),
    "floor": Kind("forward and backward only: no communication, no update", floor),
    "local": Kind("no communication; AdamW(fused=True) on all parameters", local),
    "local-share": Kind("no communication; AdamW(fused=True) on 1/W of every parameter", local_share),
}
