"""The one place where names of the configuration file become objects of the library."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

import adamesh
from adamesh.codecs.base import Codec
from adamesh.codecs.coding import Coding
from adamesh.comm.company import Company
from adamesh.errors import ConfigurationError
from adamesh.lbfgs import LBFGS
from adamesh.onebit import one_bit_wire
from adamesh.optimizer import MeshOptimizer
from adamesh.sync.base import Schedule
from adamesh.train.rules import RULES, RuleName
from adamesh.train.settings import OptimSettings, PlanSettings, RunConfig

__all__ = [
    "AnyOptimizer",
    "build_optimizer",
    "build_plan",
    "build_schedule",
    "build_torchs",
    "build_wire",
    "check_plan",
]

AnyOptimizer = MeshOptimizer | LBFGS

_CODECS: dict[str, Callable[[], Codec]] = {
    "bf16": lambda: adamesh.Cast(torch.bfloat16),
    "fp16": lambda: adamesh.Cast(torch.float16),
    "int8": adamesh.Int8,
    "int4": adamesh.Int4,
    "int2": adamesh.Int2,
    "sign": adamesh.Sign,
}


def build_wire(settings: PlanSettings, rule: RuleName = "adamw") -> adamesh.Wire:
    """The wire that [plan] describes for a rule; not checked."""
    if rule == "onebit-adam":
        return _frozen_wire(settings)
    up, across = (_coding(name, settings.exact_steps, held_back=True) for name in (settings.up, settings.across))
    return adamesh.Wire(up=up, down=_coding(settings.down, settings.exact_steps, held_back=False), across=across)


def build_schedule(settings: PlanSettings) -> Schedule:
    """The schedule that [plan] names."""
    name = settings.schedule
    if name.kind == "every-step":
        return adamesh.EveryStep()
    if name.kind == "async":
        return adamesh.Async() if name.staleness is None else adamesh.Async(name.staleness)
    if name.kind == "every":
        return adamesh.EveryH(name.h)
    if name.kind == "des-loc":
        return adamesh.EveryH(name.h, exp_avg=3, exp_avg_sq=6)
    if name.kind == "stale":
        return adamesh.Stale(name.delay)
    given = {"lr": settings.outer_lr, "momentum": settings.outer_momentum}
    outer = adamesh.Nesterov(**{key: value for key, value in given.items() if value is not None})
    return adamesh.DiLoCo(name.h, outer, name.fragments, name.delay, settings.blend)


def check_plan(config: RunConfig, world_size: int) -> None:
    """Refuse settings of [plan] that are unsound in this run, before any worker is started.

    Raises:
        IncompatiblePlan: they are.
    """
    rule = config.optim.rule
    plan = _plan(config.plan, rule, config.plans_guard)
    islands = config.plan.num_islands(world_size)
    plan.full_wire.check_mesh(islands, world_size // islands)
    freezes = {"frozen_after": None} if rule == "onebit-adam" else {}
    plan.check_group(config.optim.numbers() | freezes)


def _frozen_wire(settings: PlanSettings) -> adamesh.Wire:
    """Every name from the freeze on; between islands momentum travels. None at all means one bit an element."""
    if settings.exact_steps:
        raise ConfigurationError(
            f"plan.exact_steps = {settings.exact_steps}: with optim.rule = 'onebit-adam' everything is exact until its "
            "second moments are frozen; optim.freeze_at says when, if it is not to be found out"
        )
    if settings.up == settings.down == settings.across == "exact":
        return one_bit_wire(settings.islands or 1)
    across = _coding(settings.across, 0, held_back=True)
    momentum = adamesh.Momentum(across) if isinstance(across, Codec | adamesh.Feedback) else across
    return adamesh.Wire(
        up=_frozen(_coding(settings.up, 0, held_back=True)),
        down=_frozen(_coding(settings.down, 0, held_back=False)),
        across=_frozen(momentum),
    )


def _frozen(coding: Coding | None) -> adamesh.Frozen | None:
    assert not isinstance(coding, adamesh.Warmup | adamesh.Frozen)
    return None if coding is None else adamesh.Frozen(coding)


def _coding(name: str, exact_steps: int, *, held_back: bool) -> Coding | None:
    """What a name stands for: with feedback if the codec needs it and it is to be ``held_back``."""
    if name == "exact":
        return None
    kind, _, number = name.partition("-")
    coding: Codec | adamesh.Feedback | adamesh.LowRank
    if kind == "lowrank":
        coding = adamesh.LowRank(int(number))
    else:
        codec = adamesh.TopK(float(number)) if kind == "topk" else _CODECS[name]()
        coding = adamesh.Feedback(codec) if held_back and codec.needs_feedback else codec
    return adamesh.Warmup(coding, exact_steps) if exact_steps else coding


def build_plan(
    settings: PlanSettings,
    device: torch.device,
    world_size: int,
    rule: RuleName = "adamw",
    guard: adamesh.Guard | None = None,
    company: Company | None = None,
) -> adamesh.Plan:
    """The plan that [plan] describes for a rule. Collective where there are several islands.

    Among workers that come and go, each slice is kept twice unless the settings say otherwise.
    """
    if company is not None:
        return replace(_plan(settings, rule, guard), mesh=company, redundancy=settings.redundancy or 2)
    islands = settings.num_islands(world_size)
    if islands == 1:
        return _plan(settings, rule, guard)
    mesh = init_device_mesh(device.type, (islands, world_size // islands), mesh_dim_names=("replicate", "shard"))
    return replace(_plan(settings, rule, guard), mesh=mesh)


def _plan(settings: PlanSettings, rule: RuleName, guard: adamesh.Guard | None) -> adamesh.Plan:
    """All of it but the mesh."""
    return adamesh.Plan(
        wire=build_wire(settings, rule),
        sync=build_schedule(settings),
        max_grad_norm=settings.max_grad_norm,
        guard=guard,
        redundancy=settings.redundancy or 1,
        balance=settings.balance,
        overlap=settings.overlap,
        bucket_mb=settings.bucket_mb,
        compile=settings.compile,
        timeout_s=settings.timeout_s,
    )


def build_optimizer(settings: OptimSettings, model: nn.Module, plan: adamesh.Plan) -> AnyOptimizer:
    """The optimizer that the resolved [optim] describes. Collective: the first worker's parameters win."""
    build = getattr(adamesh, RULES[settings.rule].class_name)
    # L-BFGS takes one group, and dense gradients.
    params = model.named_parameters() if build is LBFGS else adamesh.param_groups(model, settings.sparse)
    optimizer: AnyOptimizer = build(params, **settings.numbers(), plan=plan)
    return optimizer


def build_torchs(settings: OptimSettings, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Torch's own optimizer of the same rule and numbers, in one process."""
    build = getattr(torch.optim, RULES[settings.rule].class_name)
    fused = {"fused": True} if settings.rule in ("adamw", "adam") else {}
    optimizer: torch.optim.Optimizer = build(list(parameters), **settings.numbers(), **fused)
    return optimizer
