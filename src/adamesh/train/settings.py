"""The settings of a run, as frozen records that cannot hold a value out of range.

The records mirror the configuration file: `RunConfig` is its top level, the others its sections. None
means "the task's default", or "off", as each field says.
"""

import re
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any, Literal, get_args

from adamesh.errors import ConfigurationError
from adamesh.guard import Guard
from adamesh.train.bounds import Bounds
from adamesh.train.rules import BY_ROWS, RULES, RuleName
from adamesh.train.sync_names import SYNC_EXAMPLES, SyncName, parse_sync

__all__ = [
    "CODEC_NAMES",
    "OptimSettings",
    "PlanSettings",
    "RunConfig",
    "ScheduleKind",
    "ScheduleSettings",
]

ScheduleKind = Literal["constant", "cosine", "linear", "step", "one-cycle"]
CODEC_NAMES = ("exact", "bf16", "fp16", "int8", "int4", "int2", "sign", "topk-0.01", "lowrank-4")
"""The last two stand for any density and any rank."""


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


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "/".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class OptimSettings:
    """[optim]: the update rule and its numbers. A number that the rule does not take is refused."""

    rule: RuleName = "adamw"
    """adamw: decoupled weight decay; adam: weight decay as an L2 term; nadam: Nesterov's momentum in Adam; onebit-adam:
    AdamW until its second moments settle, one bit an element from then on; sgd; adadelta; lbfgs: several evaluations
    a step."""
    lr: float | None = None
    """The learning rate that the schedule scales; not set: the task's, which is for adamw, adam, nadam and onebit-adam,
    and torch's own default for the other rules."""
    betas: tuple[float, float] | None = None
    """adamw, adam, nadam, onebit-adam: decay of the first and of the second moment."""
    eps: float | None = None
    """All but sgd and lbfgs: keeps what is divided by away from 0."""
    weight_decay: float | None = None
    """All but lbfgs; not set: as lr."""
    amsgrad: bool = False
    """adamw, adam: divide by the largest second moment so far."""
    sparse: Literal["lazy", "decayed", "exact"] = "lazy"
    """adamw, adam: how embeddings built with sparse=True are updated. lazy: by torch's SparseAdam, which has no weight
    decay; decayed: by Adam with a step count for each row; exact: as if they were dense."""
    freeze_at: int | None = None
    """onebit-adam: freeze second moments after so many steps; not set: when they have settled."""
    momentum_decay: float | None = None
    """nadam: how fast its momentum warms up."""
    decoupled_weight_decay: bool = False
    """nadam: weight decay as AdamW has it."""
    momentum: float | None = None
    """sgd: share of the last step that is taken again."""
    dampening: float | None = None
    """sgd: share of the gradient that momentum leaves out."""
    nesterov: bool = False
    """sgd: Nesterov's momentum."""
    rho: float | None = None
    """adadelta: decay of both averages."""
    max_iter: int | None = None
    """lbfgs: iterations in a step."""
    history_size: int | None = None
    """lbfgs: past steps that approximate the curvature."""
    tolerance_grad: float | None = None
    """lbfgs: a step ends when no element of the gradient is larger."""
    tolerance_change: float | None = None
    """lbfgs: a step ends when parameters or loss change by less."""
    line_search_fn: Literal["strong_wolfe"] | None = None
    """lbfgs: how far to go; not set: lr times the direction."""

    def __post_init__(self) -> None:
        _require_name("optim.rule", self.rule, tuple(RULES))
        _require_at_least("optim.lr", self.lr, 0)
        for beta in self.betas or ():
            _require(0 <= beta < 1, "optim.betas", list(self.betas or ()), "each must be at least 0 and below 1")
        if self.rule == "onebit-adam" and self.betas is not None:
            least = "the second must be at least 0.9, as what it averages is frozen"
            _require(self.betas[1] >= 0.9, "optim.betas", list(self.betas), least)
        for key in ("eps", "weight_decay", "momentum_decay", "momentum", "tolerance_grad", "tolerance_change"):
            _require_at_least(f"optim.{key}", getattr(self, key), 0)
        for key in ("max_iter", "history_size", "freeze_at"):
            _require_at_least(f"optim.{key}", getattr(self, key), 1)
        _require(self.rho is None or 0 <= self.rho <= 1, "optim.rho", self.rho, "must lie in 0 to 1")
        self._require_fitting()
        if self.nesterov:
            _require(bool(self.momentum), "optim.nesterov", "true", "needs optim.momentum above 0, as in 0.9")
            _require(not self.dampening, "optim.nesterov", "true", f"needs optim.dampening = 0, not {self.dampening}")

    def _require_fitting(self) -> None:
        """Every number that was given is one of the rule's."""
        for field_ in fields(self):
            value = getattr(self, field_.name)
            own = field_.name in RULES[self.rule].defaults or (field_.name == "sparse" and self.rule in BY_ROWS)
            if field_.name == "rule" or value == field_.default or own:
                continue
            takers = [name for name, rule in RULES.items() if field_.name in rule.defaults] or BY_ROWS
            raise ConfigurationError(
                f"optim.{field_.name} = {value}: belongs to {', '.join(takers)}, and optim.rule is "
                f"{self.rule!r}; leave it out, or choose another rule"
            )

    def filled(self, task_lr: float, task_weight_decay: float | None) -> "OptimSettings":
        """With every number of the rule: as given, else the task's where they are for such a rule, else torch's."""
        rule = RULES[self.rule]
        defaults = dict(rule.defaults)
        if rule.like_adam:
            defaults["lr"] = task_lr
            if task_weight_decay is not None:
                defaults["weight_decay"] = task_weight_decay
        given = {key: value for key, value in self.numbers().items() if value is not None}
        return OptimSettings(rule=self.rule, sparse=self.sparse, **(defaults | given))

    def numbers(self) -> dict[str, Any]:
        """What the rule's optimizer is built with."""
        return {key: getattr(self, key) for key in RULES[self.rule].defaults}

    def described(self) -> str:
        """One line for the run's header."""
        numbers = {key: value for key, value in self.numbers().items() if value is not None}
        return f"{self.rule}: {', '.join(f'{key} {_plain(value)}' for key, value in numbers.items())}"


@dataclass(frozen=True)
class ScheduleSettings:
    """[schedule]: how the learning rate changes over the run."""

    kind: ScheduleKind | None = None
    """constant, cosine, linear, step (a factor every so many steps) or one-cycle; not set: the task's."""
    warmup_steps: int | None = None
    """Steps over which the rate rises linearly to optim.lr; not set: the task's. one-cycle: the steps that its own
    rise takes; not set: three tenths of the run."""
    final_factor: float = 0.0
    """The share of optim.lr that is left at the end of a cosine or a line."""
    step_every: int | None = None
    """step: how many steps each rate lasts; not set: a third of the run."""
    step_factor: float = 0.1
    """step: what the rate is multiplied by then."""

    def __post_init__(self) -> None:
        if self.kind is not None:
            _require_name("schedule.kind", self.kind, get_args(ScheduleKind))
        _require_at_least("schedule.step_every", self.step_every, 1)
        _require(0 < self.step_factor <= 1, "schedule.step_factor", self.step_factor, "must be above 0, at most 1")
        _require_at_least("schedule.warmup_steps", self.warmup_steps, 0)
        factor = self.final_factor
        _require(0 <= factor <= 1, "schedule.final_factor", factor, "must lie in 0 to 1")


@dataclass(frozen=True)
class PlanSettings:
    """[plan]: how the workers share the work; `adamesh.train.names` turns it into an `adamesh.Plan`."""

    islands: int | None = None
    """Groups of workers that hold whole copies of the optimizer state; it is cut inside each group. Not set: one group,
    or if sync is not every-step, one for each worker."""
    up: str = "exact"
    """Codec of the gradients on their way to their owners: exact, bf16, fp16, int8, int4, int2, sign, topk-0.01
    (any share), lowrank-4 (any rank); with error feedback where the codec needs it."""
    down: str = "exact"
    """Codec of the parameters' changes on their way back."""
    across: str = "exact"
    """Codec of the gradients, or with diloco of the pseudo-gradients, between islands, there and back."""
    exact_steps: int = 0
    """Steps at the start in which nothing is coded."""
    sync: str = "every-step"
    """When islands agree: every-step; every-16: they step alone and average after every 16th step; des-loc-32: the
    same, and moments 3 and 6 times as rarely; diloco-64: an outer rule moves an anchor by what islands have learnt in
    64 steps, with -streaming-4 in 4 fragments, with -delay-2 while 2 more steps are made; stale-1: every step, with the
    gradients of the step before; async-8: each worker at its own speed, with gradients that are up to 8 updates old
    (any number; async: 8)."""
    outer_lr: float | None = None
    """diloco: share of what islands have learnt that the anchor moves by; not set: 0.7."""
    outer_momentum: float | None = None
    """diloco: Nesterov's momentum of the anchor; not set: 0.9."""
    blend: float | None = None
    """diloco: share of its own parameters that an island keeps when a fragment arrives; not set: 0, or 0.5 with a
    delay."""
    max_grad_norm: float | None = None
    """Clip the global gradient norm to this; not set: off."""
    guard: bool = False
    """Skip steps that are too bad to be made, roll back, repair replicas that differ; [guard] says when."""
    redundancy: int | None = None
    """Copies of each slice of optimizer state: 2 outlive the loss of any one worker; not set: 2 where workers come and
    go (elastic), else 1."""
    balance: bool = False
    """Give faster workers more of each batch, by what was measured in the steps before. The batch stays the same."""
    most_samples: int | None = None
    """balance: the most samples of a batch that a worker gets, for its memory; not set: any number."""
    overlap: bool = True
    """Send gradients while backward still runs."""
    bucket_mb: float = 25.0
    """MiB of parameters that travel together."""
    compile: bool | None = None
    """Compile codecs, which takes seconds at the start and changes no result; not set: if the model is large enough."""
    timeout_s: float | None = None
    """How long to wait for another worker; not set: as long as torch.distributed does by default."""

    def __post_init__(self) -> None:
        _require_at_least("plan.islands", self.islands, 1)
        _require_positive("plan.max_grad_norm", self.max_grad_norm)
        _require_positive("plan.bucket_mb", self.bucket_mb)
        _require_positive("plan.timeout_s", self.timeout_s)
        for key in ("up", "down", "across"):
            _require_codec(f"plan.{key}", getattr(self, key))
        _require_at_least("plan.most_samples", self.most_samples, 1)
        if self.most_samples is not None:
            _require(self.balance, "plan.most_samples", self.most_samples, "is for plan.balance = true")
        _require_at_least("plan.exact_steps", self.exact_steps, 0)
        known = parse_sync(self.sync) is not None
        _require(known, "plan.sync", repr(self.sync), f"must be one of {', '.join(map(repr, SYNC_EXAMPLES))}")
        _require_positive("plan.outer_lr", self.outer_lr)
        for key in ("outer_lr", "outer_momentum", "blend"):
            value = getattr(self, key)
            if value is not None:
                _require(self.schedule.kind == "diloco", f"plan.{key}", value, f"is for diloco; sync is {self.sync!r}")
        for key in ("outer_momentum", "blend"):
            value = getattr(self, key)
            _require(value is None or 0 <= value < 1, f"plan.{key}", value, "must be at least 0 and below 1")

    @property
    def schedule(self) -> SyncName:
        """What ``sync`` says."""
        name = parse_sync(self.sync)
        assert name is not None
        return name

    def num_islands(self, world_size: int) -> int:
        """How many there are of so many workers."""
        if self.islands is not None:
            return self.islands
        return 1 if self.schedule.is_every_step or self.schedule.kind == "async" else world_size

    def described(self, world_size: int) -> str:
        """One line for the run's header."""
        islands = self.num_islands(world_size)
        size = world_size // islands
        workers = "1 worker" if size == 1 else f"{size} workers"
        chosen = "" if self.islands is not None else " (plan.islands is not set)"
        return f"{self.sync}, {islands} island{'s' * (islands > 1)} of {workers}{chosen}"


@dataclass(frozen=True)
class RunConfig:
    """Everything that determines a run."""

    task: str = "digits"
    """A built-in task's name, with ":size" where its model comes in sizes, or the path of a Python file that defines
    one."""
    data: Path | None = None
    """The task's data; not set: data that ships with adamesh, or is generated."""
    weights: Path | None = None
    """A safetensors file to start the model from; not set: it is initialised anew."""
    out: Path | None = None
    """The run's folder; not set: runs/<time>-<task>."""
    seed: int = 0
    """Determines initial parameters, the order of samples and everything random."""
    nproc: int = 2
    """Workers to start on this machine. It changes no result beyond the order of sums."""
    elastic: str | None = None
    """MIN:MAX: workers may be lost, come and go, at least and at most so many; training goes on with those that are
    there, without a lost step or sample, and more may join (adamesh join). Not set: workers stay the same."""
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
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """What moves gradients between GPUs; auto: NCCL, and Gloo by way of the host where workers come and go. With gloo
    several workers may share a GPU."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    eval_every: int | None = None
    """Steps between evaluations; not set: every epoch, but at most 50 times a run."""
    checkpoint_every: int | None = None
    """Steps between checkpoints; not set: every epoch, but at most 10 times a run."""
    checkpoint_async: bool = True
    """Write checkpoints while training goes on, from a copy in memory; false: training waits for the disk."""
    keep_checkpoints: int = 3
    """How many of the newest checkpoints stay."""
    keep_best: bool = True
    """Keep the checkpoint of the best evaluation too, in best/."""
    best_metric: str = "loss"
    """The test metric that tells which evaluation is the best."""
    best_is: Literal["highest", "lowest"] | None = None
    """Not set: the highest for accuracy, auc, precision and recall, else the lowest."""
    patience: int | None = None
    """Stop after so many evaluations without a better one; not set: off."""
    eval_train: bool = False
    """Evaluate on the training data too, each time."""
    prefetch: int = 2
    """Steps for which data are prepared ahead, beside the training; 0: none."""
    tensorboard: bool = False
    """Write the curves for TensorBoard too, in tensorboard/; needs adamesh[tensorboard]."""
    max_seconds: float | None = None
    """Stop after so many seconds in steps, evaluations and checkpoints left out; not set: off."""
    tolerance: float | None = None
    """Stop once the gradient norm varies by less than this share of itself; not set: off."""
    tolerance_steps: int = 10
    """How many steps tolerance looks back on."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        _require(bool(self.task), "task", repr(self.task), 'must name a task; "adamesh tasks" lists them')
        _require(0 <= self.seed < 2**63, "seed", self.seed, "must be at least 0 and below 2^63")
        one_end = self.steps is None or self.epochs is None
        _require(one_end, "steps", self.steps, f"set it or epochs = {self.epochs}, not both")
        counts = ("nproc", "steps", "epochs", "batch_size", "micro_batches", "log_every", "eval_every")
        for key in (*counts, "checkpoint_every", "keep_checkpoints"):
            _require_at_least(key, getattr(self, key), 1)
        _require_at_least("prefetch", self.prefetch, 0)
        _require_at_least("patience", self.patience, 1)
        _require_positive("max_seconds", self.max_seconds)
        _require_positive("tolerance", self.tolerance)
        _require_at_least("tolerance_steps", self.tolerance_steps, 2)
        unused = self.guard != Guard() and not self.plan.guard
        _require(not unused, "plan.guard", "false", "[guard] is set; set plan.guard = true, or leave [guard] out")
        by_nccl = self.backend == "nccl"
        _require(not by_nccl or self.device != "cpu", "backend", "'nccl'", "moves nothing for device = 'cpu'")
        _require(not by_nccl or self.elastic is None, "backend", "'nccl'", "is not for elastic workers: leave it out")
        together = self.tolerance is None or self.plan.schedule.kind != "async"
        _require(together, "tolerance", self.tolerance, f"nobody knows the norm of a mean under {self.plan.sync}")

    @property
    def plans_guard(self) -> Guard | None:
        """What guards the run's steps, if anything does."""
        return self.guard if self.plan.guard else None

    def most_workers(self, started: int) -> int:
        """How many workers there may be at once, of a run that was started with so many."""
        return started if self.elastic is None else max(started, Bounds.parse(self.elastic).most)

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
        most = self.plan.most_samples
        if most is not None and self.batch_size is not None and most * world_size < self.batch_size:
            raise ConfigurationError(
                f"plan.most_samples = {most}: {world_size} workers then take {most * world_size} samples, and "
                f"batch_size is {self.batch_size}: raise it to at least {-(-self.batch_size // world_size)}, start "
                "more workers, or set micro_batches to save memory"
            )
        if world_size % self.plan.num_islands(world_size):
            raise ConfigurationError(
                f"plan.islands = {self.plan.islands} must divide the number of workers, {world_size}"
            )
