"""Ways of training over a slow link: torch's own DistributedDataParallel with and without its hooks, and adamesh."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from adamesh.adam import AdamW
from adamesh.train.names import build_plan
from adamesh.train.settings import PlanSettings
from adamesh.train.sync_names import parse_sync

__all__ = ["Racer", "build_racer", "says"]

SETTINGS: Mapping[str, Any] = {"lr": 1e-3, "weight_decay": 1e-2}
POWERSGD_RANK = 4
POWERSGD_START = 10


@dataclass(frozen=True)
class Racer:
    """A model on this worker, and the optimizer that trains it."""

    module: nn.Module
    optimizer: Optimizer


def build_racer(name: str, model: nn.Module) -> Racer:
    """The contender called ``name`` around a model; collective."""
    if name in _DDP:
        _, register, options = _DDP[name]
        module = DistributedDataParallel(model, gradient_as_bucket_view=True, **options)
        register(module)
        return Racer(module, torch.optim.AdamW(module.parameters(), fused=True, **SETTINGS))
    world = dist.get_world_size()
    plan = build_plan(_plan_of(name), torch.device("cpu"), world)
    return Racer(model, AdamW(model.named_parameters(), plan=plan, **SETTINGS))


def says(name: str) -> str:
    """What a contender is, for the table's legend."""
    if name in _DDP:
        return _DDP[name][0]
    settings = _plan_of(name)
    if settings.sync != "every-step":
        return f"adamesh.AdamW, hosts agree as {settings.sync} has it, what they send each other as {settings.across}"
    return f"adamesh.AdamW, gradients up as {settings.up}, parameters' changes down as {settings.down}"


def _plan_of(name: str) -> PlanSettings:
    """``adamesh:up/down``, one codec for both where there is no slash; or ``adamesh:sync/across``."""
    first, _, second = name.removeprefix("adamesh:").partition("/")
    if parse_sync(first) is not None:
        return PlanSettings(sync=first, across=second or "exact")
    return PlanSettings(up=first, down=second or first)


def _exact(module: DistributedDataParallel) -> None:
    return None


def _bf16(module: DistributedDataParallel) -> None:
    # Under a name of our own: DDP refuses torch's by its name without a GPU, though Gloo sums bfloat16.
    # DDP looks at the annotation; torch's own types do not show the class that it wants.
    def compress(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
        return default_hooks.bf16_compress_hook(state, bucket)

    module.register_comm_hook(None, compress)


def _powersgd(module: DistributedDataParallel) -> None:
    state = powerSGD_hook.PowerSGDState(
        process_group=None, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=POWERSGD_START
    )
    module.register_comm_hook(state, powerSGD_hook.powerSGD_hook)


# With several buckets torch's hook starts its second reductions from whichever thread is first, in another order on
# each worker, and Gloo then ends the process: everything in one.
_ONE_BUCKET = {"bucket_cap_mb": 1024}

_DDP: Mapping[str, tuple[str, Callable[[DistributedDataParallel], None], Mapping[str, Any]]] = {
    "ddp": ("DistributedDataParallel + AdamW(fused=True)", _exact, {}),
    "ddp-bf16": ("the same with torch's bf16_compress_hook", _bf16, {}),
    "ddp-powersgd": (
        f"the same with torch's powerSGD_hook, rank {POWERSGD_RANK}, exact for {POWERSGD_START} steps, in one bucket",
        _powersgd,
        _ONE_BUCKET,
    ),
}
