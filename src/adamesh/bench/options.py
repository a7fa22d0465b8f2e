"""What the benchmarks can be told. No torch here: help is instant."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from adamesh.errors import ConfigurationError

__all__ = [
    "BASELINE",
    "FLOOR",
    "AsyncOptions",
    "ContenderName",
    "ElasticOptions",
    "LinkOptions",
    "ModelName",
    "PlansOptions",
    "ResidualOptions",
    "StepOptions",
    "WireOptions",
]

ModelName = Literal["mlp", "transformer", "gpt2"]
ContenderName = Literal[
    "adamesh", "adamesh-elastic", "adamesh-elastic-2", "ddp", "zero", "fsdp2", "fsdp2-reshard", "floor"
]

BASELINE: ContenderName = "ddp"
"""What all the others are compared with; it always takes part."""
FLOOR: ContenderName = "floor"
"""Forward and backward alone; it always takes part."""


@dataclass(frozen=True)
class StepOptions:
    """One training step of adamesh, against PyTorch's own distributed optimizers."""

    models: tuple[ModelName, ...] = ("mlp", "transformer")
    """mlp: 16 layers, 1024 wide. transformer: 4 layers, 256 wide, 8192 tokens of vocabulary. gpt2: as GPT-2 small, 12
    layers, 768 wide, 50257 tokens; for GPUs."""
    contenders: tuple[ContenderName, ...] = ("adamesh", "ddp", "zero", "fsdp2", "floor")
    """floor is forward and backward alone; fsdp2-reshard frees parameters between forward and backward."""
    nproc: int = 2
    """Worker processes on this machine."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cuda: a GPU for each worker, and NCCL between them."""
    threads: int = 1
    """Threads of each worker."""
    rounds: int = 16
    """Every contender takes its turn once a round; medians are over rounds."""
    steps: int = 3
    """Timed steps in a turn, after one that is not timed."""
    warmup: int = 2
    """Rounds at the start that are thrown away."""
    memory: bool = True
    """Measure peak memory too, each contender alone in fresh processes."""
    tiny: bool = False
    """Very small models, to see in seconds whether it works; their times mean nothing."""
    out: Path | None = None
    """Folder for the result and the workers' logs; runs/TIME-bench-step if not given."""
    json: Path | None = None
    """File for the result; step.json in the folder if not given."""

    def __post_init__(self) -> None:
        _check_names("models", self.models, get_args(ModelName))
        _check_names("contenders", self.contenders, get_args(ContenderName))
        for name, least in (("nproc", 1), ("threads", 1), ("rounds", 1), ("steps", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"--{name} {getattr(self, name)}: must be at least {least}")


@dataclass(frozen=True)
class LinkOptions:
    """The same transformer trained on real text over a slow link, in several ways."""

    mbit: float | None = 100.0
    """What each host may send per second, in Mbit. None: no limit."""
    hosts: int = 2
    """Network namespaces of this machine, one worker each."""
    contenders: tuple[str, ...] = ("ddp", "ddp-bf16", "ddp-powersgd", "adamesh:int8", "adamesh:int4")
    """ddp, ddp-bf16, ddp-powersgd; adamesh:UP/DOWN with codecs as in plan.up and plan.down (adamesh:int4 is int4 both
    ways); or adamesh:SYNC/ACROSS as in plan.sync and plan.across (adamesh:diloco-32/int4), each host an island. The
    first is the one that the others are compared with."""
    steps: int = 60
    """Of each contender. Faster ones then go on for as long as the first has taken."""
    batch_size: int = 4
    """Sequences per host and step."""
    context: int = 128
    """Tokens in a sequence."""
    most_times: int = 12
    """No contender takes more than this many times the steps."""
    data: Path | None = None
    """Text to train on, a file or a folder as for the task text; not set: the text that ships with adamesh."""
    tiny: bool = False
    """A very small model, to see in seconds whether it works."""
    out: Path | None = None
    """Folder for table, plot and logs; runs/TIME-bench-link if not given."""

    def __post_init__(self) -> None:
        if self.mbit is not None and not self.mbit > 0:
            raise ConfigurationError(f"--mbit {self.mbit}: must be above 0, or None for no limit")
        if not 2 <= self.hosts <= 64:
            raise ConfigurationError(f"--hosts {self.hosts}: must be 2 to 64")
        for name, least in (("steps", 5), ("batch_size", 1), ("context", 2), ("most_times", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        if not self.contenders or len(set(self.contenders)) < len(self.contenders):
            raise ConfigurationError("--contenders: name at least one, and each once")


@dataclass(frozen=True)
class PlansOptions:
    """What adamesh plan --json has foretold, beside what is measured."""

    file: Path
    """Of adamesh plan --json."""
    plans: tuple[str, ...] = ()
    """Names of plans in the file; not set: all of them."""
    rounds: int = 8
    """Every plan takes its turn once a round; medians are over rounds."""
    steps: int = 5
    """Of a turn, at least; whole periods of a schedule."""
    memory: bool = True
    """Find the allocator's peak too, over the first link."""
    out: Path | None = None
    """Folder for the result and logs; runs/TIME-bench-plans if not given."""

    def __post_init__(self) -> None:
        for name in ("rounds", "steps"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"--{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class ResidualOptions:
    """What low rank holds back where workers have different data, beside PyTorch's own hook."""

    rank: int = 1
    """Columns of the thin matrices."""
    size: int = 24
    """Rows, and columns, of the one matrix that is trained."""
    steps: int = 10_000
    """Training steps."""
    nproc: int = 2
    """Worker processes on this machine."""
    out: Path | None = None
    """Folder for table, plot and logs; runs/TIME-bench-residual if not given."""

    def __post_init__(self) -> None:
        for name, least in (("rank", 1), ("size", 4), ("steps", 10), ("nproc", 2)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if 2 * self.rank >= self.size:
            raise ConfigurationError(
                f"--rank {self.rank}: a matrix of {self.size} x {self.size} is sent in fewer numbers only by a rank "
                f"below {self.size / 2:g}"
            )


@dataclass(frozen=True)
class WireOptions:
    """What codecs cost and what they leave over, on one worker."""

    codecs: tuple[str, ...] = ("bf16", "fp16", "int8", "int4", "int4-stochastic", "int2", "sign", "topk-0.01")
    """Names as in plan.up; -stochastic after int8 or int4 rounds by chance."""
    mib: float = 25.0
    """MiB of float32 that are coded at once: a bucket's worth."""
    rounds: int = 15
    """Everything takes its turn once a round; medians are over rounds."""
    threads: int = 1
    """Threads that code and copy."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the numbers are. Only on a CPU there are compiled forms."""
    compile: bool = True
    """Measure compiled forms beside the eager ones; they take seconds each to compile the first time."""
    out: Path | None = None
    """Folder for the result; runs/TIME-bench-wire if not given."""
    json: Path | None = None
    """File for the result; wire.json in the folder if not given."""

    def __post_init__(self) -> None:
        if not self.codecs or len(set(self.codecs)) < len(self.codecs):
            raise ConfigurationError("--codecs: name at least one, and each once")
        if not self.mib >= 0.25:
            raise ConfigurationError(f"--mib {self.mib}: must be at least 0.25, or nothing but calls is measured")
        for name in ("rounds", "threads"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"--{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class AsyncOptions:
    """Training with one worker that is slower than the others: every step together, and each at its own speed."""

    staleness: tuple[int, ...] = (1, 2, 4, 8)
    """The bounds to try."""
    nproc: int = 3
    """Worker processes on this machine; the last one is the slow one."""
    slow: float = 4.0
    """How many times longer it takes for a step."""
    step_ms: float = 40.0
    """What every step takes beside its arithmetic, waited rather than computed, so that few cores are enough."""
    batch_size: int = 32
    """Samples of each worker's step."""
    samples: int = 8640
    """After how many accepted samples the test losses are compared."""
    lr: float = 3e-3
    """The same for all."""
    seeds: int = 3
    """Runs of each; losses and speeds are means."""
    out: Path | None = None
    """Folder for table and logs; runs/TIME-bench-async if not given."""

    def __post_init__(self) -> None:
        for name, least in (("nproc", 2), ("batch_size", 1), ("samples", 1), ("seeds", 1), ("slow", 1), ("step_ms", 0)):
            if not getattr(self, name) >= least:
                raise ConfigurationError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")
        if not self.staleness or len(set(self.staleness)) < len(self.staleness) or min(self.staleness) < 0:
            raise ConfigurationError("--staleness: give at least one number from 0 on, and each once")


@dataclass(frozen=True)
class BalanceOptions:
    """Training with one worker that is slower than the others: equal shares of a batch, and shares by speed."""

    nproc: int = 2
    """Worker processes on this machine; the last one is the slow one."""
    slow: float = 3.0
    """How many times longer it takes for a sample."""
    by: Literal["sleep", "quota"] = "sleep"
    """How it is slowed: it waits longer, so that few cores are enough; or all compute, and it gets so much less of a
    processor (needs root and a control group of processors that can be written to)."""
    sample_ms: float = 2.0
    """What a sample takes beside the model's arithmetic, on a fast worker."""
    batch_size: int = 32
    """Samples of a step, times the number of workers."""
    steps: int = 40
    """Of each contender in a round."""
    rounds: int = 3
    """Everything takes its turn once a round; medians are over rounds."""
    out: Path | None = None
    """Folder for result and logs; runs/TIME-bench-balance if not given."""

    def __post_init__(self) -> None:
        for name, least in (
            ("nproc", 2),
            ("slow", 1),
            ("sample_ms", 0.01),
            ("batch_size", 4),
            ("steps", 10),
            ("rounds", 1),
        ):
            if not getattr(self, name) >= least:
                raise ConfigurationError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least {least}")


def _check_names(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    if not given:
        raise ConfigurationError(f"--{option}: names none; choose from {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ConfigurationError(f"--{option} {name}: is unknown; choose from {', '.join(known)}")
    if len(set(given)) < len(given):
        raise ConfigurationError(f"--{option} {' '.join(given)}: names one twice; name each once")


@dataclass(frozen=True)
class ElasticOptions:
    """Workers that are lost, again and again."""

    fault: Literal["kill", "stop", "gil", "none"] = "kill"
    """kill: they are killed; stop: stopped, and woken once the others have gone on; gil: one thread of them holds the
    interpreter's lock for 3 s; none: nothing happens for --minutes, and nobody should be suspected."""
    times: int = 200
    """Faults."""
    minutes: float = 5.0
    """none: how long."""
    hogs: int = 0
    """Processes beside the workers that keep the cores busy."""
    victims: int = 1
    """Workers that are lost at once."""
    nproc: int = 4
    """Workers; as many are there again before each fault."""
    dtype: Literal["float64", "float32"] = "float32"
    """Of the model of a million parameters."""
    up: Literal["exact", "int4"] = "exact"
    """How gradients travel; int4: with feedback."""
    redundancy: int = 2
    """Copies of each slice of optimizer state."""
    batch_size: int = 16
    """Samples of a step."""
    seed: int = 0
    """Of everything random."""
    out: Path | None = None
    """Folder for the result; runs/TIME-bench-elastic if not given."""

    def __post_init__(self) -> None:
        if not 1 <= self.victims < self.nproc - 1:
            raise ConfigurationError(
                f"--victims {self.victims}: at least 1, and so few that at least 2 of {self.nproc} workers are left"
            )
        if self.times < 1:
            raise ConfigurationError(f"--times {self.times}: must be at least 1")
        if not 0 < self.minutes < math.inf:
            raise ConfigurationError(f"--minutes {self.minutes}: must be a positive number")
        if self.hogs < 0:
            raise ConfigurationError(f"--hogs {self.hogs}: must be at least 0")
