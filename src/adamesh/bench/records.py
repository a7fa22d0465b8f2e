"""What workers find, as they write it to files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Deviation", "Found", "Load", "Timing"]


@dataclass(frozen=True)
class Timing:
    """What one worker saw of one contender, a number a round."""

    step_s: Sequence[float]
    """Seconds per step."""
    waited_s: Sequence[float]
    """Seconds per step that the optimizer says it waited; empty where it does not say."""


@dataclass(frozen=True)
class Deviation:
    """How far a contender's parameters ended from the baseline's."""

    relative: float
    """Distance between the two end points, over the distance that the baseline went (Euclidean)."""
    largest: float
    """Of any single parameter."""


@dataclass(frozen=True)
class Load:
    """Who used the machine's cores."""

    seconds: float
    own_core_s: float
    """Core seconds of this worker."""
    machine_core_s: float
    """Core seconds of everybody on this machine."""


@dataclass(frozen=True)
class Found:
    """What one worker found about contenders that took turns, by their names."""

    description: str
    """The model and its batch."""
    param_count: int
    timings: Mapping[str, Timing]
    state_bytes: Mapping[str, int]
    """Optimizer state on this worker."""
    bytes_sent: Mapping[str, int]
    """By this worker in the last step, or by any on the average."""
    deviations: Mapping[str, Deviation]
    """Of those that communicate."""
    load: Load
    """While they took turns."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Found":
        """From what `to_json` returned."""
        timings = {name: Timing(**timing) for name, timing in plain["timings"].items()}
        deviations = {name: Deviation(**deviation) for name, deviation in plain["deviations"].items()}
        load = Load(**plain["load"])
        return cls(**{**plain, "timings": timings, "deviations": deviations, "load": load})
