"""The settings of a run, as frozen records that cannot hold a value out of range.

The records mirror the configuration file: `RunConfig` is its top level, the others its sections. None
means "the task's default", or "off", as each field says.
"""

import re
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from adamesh.errors import ConfigurationError

__all__ = ["CODEC_NAMES", "SCHEDULE_NAMES", "OptimSettings", "PlanSettings", "RunConfig", "ScheduleSettings"]

CODEC_NAMES = ("exact", "bf16", "fp16", "int8", "int4", "sign", "topk-0.01", "lowrank-4")
"""The last two stand for any density and any rank."""
SCHEDULE_NAMES = ("every-step",)


def _require(fulfilled: bool, key: str, value: object, rule: str) -> None:
    if not fulfilled:
        raise ConfigurationError(f"{key} = {value}: {rule}")


def _require_at_least(key: str, value: float | None, least: float) -> None:
    if value is not None:
        _require(least <= value < inf, key, value, f"must be a finite number of at least {least}")


def _require_positive(key: str, value: float | None) -> None:
    if value is not None:
        _require(0 < value < inf, key, value, "must be a finite number above 0")


def _require_name(key: str, name: str, known: tuple[str, ...]) -> None:
    _require(name in known, key, repr(name), f"must be one of {', '.join(map(repr, known))}")


def _require_codec(key: str, name: str) -> None:
    kind, _, number = name.partition("-")
    is_density = kind == "topk" and re.fullmatch(r"0?\.\d+|1(\.0*)?", number) is not None and float(number) > 0
    is_rank = kind == "lowrank" and re.fullmatch(r"[1-9]\d*", number) is not None
    if not is_density and not is_rank:
        _require(name in CODEC_NAMES, key, repr(name), f"must be one of {', '.join(map(repr, CODEC_NAMES))}")


@dataclass(frozen=True)
class OptimSettings:
    """[optim]: the update rule and its numbers."""

    rule: Literal["adamw", "adam"] = "adamw"
    """adamw: decoupled weight decay; adam: weight decay as an L2 term."""
    lr: float | None = None
    """The learning rate that the schedule scales; not set: the task's."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float | None = None
    """Not set: the task's, or else torch's own default for the rule."""
    amsgrad: bool = False
    """Divide by the largest second moment so far."""

    def __post_init__(self) -> None:
        _require_at_least("optim.lr", self.lr, 0)
        for beta in self.betas:
            _require(0 <= beta < 1, "optim.betas", list(self.betas), "each must be at least 0 and below 1")
        _require_at_least("optim.eps", self.eps, 0)
        _require_at_least("optim.weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class ScheduleSettings:
    """[schedule]: how the learning rate changes over the run."""

    kind: Literal["constant", "cosine"] | None = None
    """Not set: the task's."""
    warmup_steps: int | None = None
    """Steps over which the rate rises linearly to optim.lr; not set: the task's."""
    final_factor: float = 0.0
    """The share of optim.lr that is left at the end of a cosine."""

    def __post_init__(self) -> None:
        _require_at_least("schedule.warmup_steps", self.warmup_steps, 0)
        factor = self.final_factor
        _require(0 <= factor <= 1, "schedule.final_factor", factor, "must lie in 0 to 1")


@dataclass(frozen=True)
class PlanSettings:
    """[plan]: how the workers share the work; `adamesh.train.names` turns it into an `adamesh.Plan`."""

    islands: int = 1
    """Groups of workers that hold whole copies of the optimizer state; it is cut inside each group."""
    up: str = "exact"
    """Codec of the gradients on their way to their owners: exact, bf16, fp16, int8, int4, sign, topk-0.01 (any share),
    lowrank-4 (any rank); with error feedback where the codec needs it."""
    down: str = "exact"
    """Codec of the parameters' changes on their way back."""
    across: str = "exact"
    """Codec of the gradients between islands, there and back."""
    exact_steps: int = 0
    """Steps at the start in which nothing is coded."""
    sync: str = "every-step"
    """When islands agree."""
    max_grad_norm: float | None = None
    """Clip the global gradient norm to this; not set: off."""
    overlap: bool = True
    """Send gradients while backward still runs."""
    bucket_mb: float = 25.0
    """MiB of parameters that travel together."""
    timeout_s: float | None = None
    """How long to wait for another worker; not set: as long as torch.distributed does by default."""

    def __post_init__(self) -> None:
        _require_at_least("plan.islands", self.islands, 1)
        _require_positive("plan.max_grad_norm", self.max_grad_norm)
        _require_positive("plan.bucket_mb", self.bucket_mb)
        _require_positive("plan.timeout_s", self.timeout_s)
        for key in ("up", "down", "across"):
            _require_codec(f"plan.{key}", getattr(self, key))
        _require_at_least("plan.exact_steps", self.exact_steps, 0)
        _require_name("plan.sync", self.sync, SCHEDULE_NAMES)


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    task: str = "digits"
    """A built-in task's name, or the path of a Python file that defines one."""
    data: Path | None = None
    """The task's data; not set: data that ships with adamesh, or is generated."""
    out: Path | None = None
    """The run's folder; not set: runs/<time>-<task>."""
    seed: int = 0
    """Determines initial parameters, the order of samples and everything random."""
    nproc: int = 2
    """Workers to start on this machine. It changes no result beyond the order of sums."""
    steps: int | None = None
    """Optimizer steps to train for; not set: epochs, or the task's default."""
    epochs: int | None = None
    """Passes over the training data to train for; not set: steps, or the task's default."""
    batch_size: int | None = None
    """Samples per step over all workers together; not set: the task's."""
    micro_batches: int = 1
    """Parts that each worker cuts its share of a batch into, to save memory."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: the forward pass runs under torch's autocast."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU for each worker if there are enough of them, else the CPU."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    eval_every: int | None = None
    """Steps between evaluations; not set: every epoch, but at most 50 times a run."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; not set: every epoch, but at most 10 times a run."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    tolerance: float | None = None
    """Stop once the gradient norm varies by less than this share of itself; not set: off."""
    tolerance_steps: int = 10
    """How many steps tolerance looks back on."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)

    def __post_init__(self) -> None:
        _require(bool(self.task), "task", repr(self.task), 'must name a task; "adamesh tasks" lists them')
        _require(0 <= self.seed < 2**63, "seed", self.seed, "must be at least 0 and below 2^63")
        one_end = self.steps is None or self.epochs is None
        _require(one_end, "steps", self.steps, f"set it or epochs = {self.epochs}, not both")
        counts = ("nproc", "steps", "epochs", "batch_size", "micro_batches", "log_every", "eval_every")
        for key in (*counts, "checkpoint_every", "keep_checkpoints"):
            _require_at_least(key, getattr(self, key), 1)
        _require_positive("tolerance", self.tolerance)
        _require_at_least("tolerance_steps", self.tolerance_steps, 2)

    def check_world(self, world_size: int) -> None:
        """Refuse a number of workers that this configuration cannot be cut over; call after `resolved`.

        Raises:
            ConfigurationError: a worker would have nothing to do, or islands would differ in size.
        """
        if self.batch_size is not None and self.batch_size < world_size:
            raise ConfigurationError(
                f"batch_size = {self.batch_size} is the global batch and too small for {world_size} workers: "
                f"raise it to at least {world_size} or start at most {self.batch_size} workers"
            )
        if world_size % self.plan.islands:
            raise ConfigurationError(
                f"plan.islands = {self.plan.islands} must divide the number of workers, {world_size}"
            )
