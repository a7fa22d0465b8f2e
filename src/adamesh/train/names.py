"""The one place where names of the configuration file become objects of the library."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

import adamesh
from adamesh.lbfgs import LBFGS
from adamesh.optimizer import MeshOptimizer
from adamesh.train.rules import RULES
from adamesh.train.settings import OptimSettings, PlanSettings

__all__ = ["AnyOptimizer", "build_optimizer", "build_plan", "build_torchs"]

AnyOptimizer = MeshOptimizer | LBFGS


def build_plan(settings: PlanSettings, device: torch.device, world_size: int) -> adamesh.Plan:
    """The plan that [plan] describes. Collective where there are several islands."""
    # The names were checked when the settings were made; each has one meaning so far.
    plan = adamesh.Plan(
        sync=adamesh.EveryStep(),
        max_grad_norm=settings.max_grad_norm,
        overlap=settings.overlap,
        bucket_mb=settings.bucket_mb,
        timeout_s=settings.timeout_s,
    )
    if settings.islands == 1:
        return plan
    shape = (settings.islands, world_size // settings.islands)
    return replace(plan, mesh=init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard")))


def build_optimizer(
    settings: OptimSettings, named_parameters: Iterable[tuple[str, nn.Parameter]], plan: adamesh.Plan
) -> AnyOptimizer:
    """The optimizer that the resolved [optim] describes. Collective: the first worker's parameters win."""
    build = getattr(adamesh, RULES[settings.rule].class_name)
    optimizer: AnyOptimizer = build(named_parameters, **settings.numbers(), plan=plan)
    return optimizer


def build_torchs(settings: OptimSettings, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Torch's own optimizer of the same rule and numbers, in one process."""
    build = getattr(torch.optim, RULES[settings.rule].class_name)
    fused = {"fused": True} if settings.rule in ("adamw", "adam") else {}
    optimizer: torch.optim.Optimizer = build(list(parameters), **settings.numbers(), **fused)
    return optimizer
