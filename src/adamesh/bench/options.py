"""What ``adamesh bench step`` can be told. No torch here: help is instant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from adamesh.errors import ConfigurationError

__all__ = ["BASELINE", "FLOOR", "ContenderName", "ModelName", "StepOptions"]

ModelName = Literal["mlp", "transformer"]
ContenderName = Literal["adamesh", "ddp", "zero", "fsdp2", "fsdp2-reshard", "floor"]

BASELINE: ContenderName = "ddp"
"""What all the others are compared with; it always takes part."""
FLOOR: ContenderName = "floor"
"""Forward and backward alone; it always takes part."""


@dataclass(frozen=True)
class StepOptions:
    """One training step of adamesh, against PyTorch's own distributed optimizers."""

    models: tuple[ModelName, ...] = ("mlp", "transformer")
    """mlp: 16 layers, 1024 wide. transformer: 4 layers, 256 wide, 8192 tokens of vocabulary."""
    contenders: tuple[ContenderName, ...] = ("adamesh", "ddp", "zero", "fsdp2", "floor")
    """floor is forward and backward alone; fsdp2-reshard frees parameters between forward and backward."""
    nproc: int = 2
    """Worker processes on this machine."""
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


def _check_names(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    if not given:
        raise ConfigurationError(f"--{option}: names none; choose from {', '.join(known)}")
    for name in given:
        if name not in known:
            raise ConfigurationError(f"--{option} {name}: is unknown; choose from {', '.join(known)}")
    if len(set(given)) < len(given):
        raise ConfigurationError(f"--{option} {' '.join(given)}: names one twice; name each once")
