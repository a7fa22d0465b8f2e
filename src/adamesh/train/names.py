"""The one place where names of the configuration file become objects of the library."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import adamesh
from adamesh.optimizer import MeshOptimizer
from adamesh.train.settings import OptimSettings, PlanSettings

__all__ = ["build_optimizer", "build_plan"]


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
) -> MeshOptimizer:
    """The optimizer that the resolved [optim] describes. Collective: the first worker's parameters win."""
    assert settings.lr is not None
    assert settings.weight_decay is not None
    rule = adamesh.AdamW if settings.rule == "adamw" else adamesh.Adam
    return rule(
        named_parameters,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        amsgrad=settings.amsgrad,
        plan=plan,
    )
