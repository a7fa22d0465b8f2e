"""What a check compares, how far it may differ and why, and what it found.

How far may two runs differ that add the same numbers in another order? As far as rounding drives torch's own
run apart. A second reference gets noise in the last place of its initial parameters and gradients; what that
moves a parameter, ten times over, is its tolerance, but at least `_FLOOR` of its largest value.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path

import torch
from torch import Tensor

from adamesh.train.files import json_line, write_whole

__all__ = ["CheckReport", "Comparison", "Deviation", "ParameterReport"]

_FACTOR = 10.0
# Relative to the largest value: the roundings of one step. Lower precisions may round to the neighbour.
_FLOOR = {torch.float64: 1e-9, torch.float32: 1e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


@dataclass(frozen=True)
class Deviation:
    """How far something was from torch's, where it was furthest."""

    value: float = 0.0
    tolerance: float = 0.0
    step: int = 0
    """Counted from 1."""
    rank: int = 0

    @property
    def share(self) -> float:
        """Of the tolerance; above 1 is too much."""
        if not isfinite(self.value):
            return inf
        return self.value / self.tolerance if self.tolerance else inf if self.value else 0.0


@dataclass(frozen=True)
class ParameterReport:
    """What was found for one parameter."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: Deviation
    gradient: Deviation
    differing_rank: int | None
    """A worker whose copy is not bit for bit the first one's."""

    @property
    def share(self) -> float:
        """Of the tolerance that it uses up more of; infinite where copies differ."""
        return inf if self.differing_rank is not None else max(self.value.share, self.gradient.share)

    def complaints(self) -> list[str]:
        """What is wrong with it, the cause before the consequence."""
        found = []
        if self.gradient.share > 1:
            found.append(f"the gradient of {self.name} on worker {self.gradient.rank} {_off(self.gradient)}")
        if self.value.share > 1:
            found.append(f"{self.name} {_off(self.value)}")
        if self.differing_rank is not None:
            found.append(f"{self.name} on worker {self.differing_rank} is not bit for bit what worker 0 has")
        return found


@dataclass(frozen=True)
class CheckReport:
    """What a check found."""

    task: str
    rule: str
    world_size: int
    device: str
    steps: int
    """That were compared; the last one is the first that failed, if one did."""
    parameters: list[ParameterReport]

    @property
    def failures(self) -> list[str]:
        """A line for each thing that is wrong, the worst first."""
        worst_first = sorted(self.parameters, key=lambda parameter: -parameter.share)
        return [complaint for parameter in worst_first for complaint in parameter.complaints()]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, json_line(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: Path) -> "CheckReport":
        """Read what `save` wrote."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        parameters = [
            ParameterReport(**{**p, "value": _deviation(p["value"]), "gradient": _deviation(p["gradient"])})
            for p in saved.pop("parameters")
        ]
        return cls(**saved, parameters=parameters)


class Comparison:
    """Collects how far one parameter, and its gradients, have been from the reference's so far."""

    def __init__(self, name: str, parameter: Tensor) -> None:
        self._name = name
        self._shape = tuple(parameter.shape)
        self._dtype = parameter.dtype
        self._value = self._gradient = Deviation()
        self._value_drift = self._gradient_drift = 0.0
        self._differing_rank: int | None = None

    def gradients(
        self, step: int, found: Sequence[Tensor], expected: Sequence[Tensor], noisy: Sequence[Tensor]
    ) -> None:
        """Take in a gradient on every worker, by rank: adamesh's, the reference's, the noisy reference's."""
        for right, other in zip(expected, noisy, strict=True):
            self._gradient_drift = max(self._gradient_drift, _distance(right, other))
        for rank, (mine, right) in enumerate(zip(found, expected, strict=True)):
            tolerance = self._tolerance(self._gradient_drift, right)
            here = Deviation(_distance(mine, right), tolerance, step, rank)
            self._gradient = max(here, self._gradient, key=_badness)

    def values(self, step: int, found: Tensor, expected: Tensor, noisy: Tensor) -> None:
        """Take in the parameter after a step."""
        self._value_drift = max(self._value_drift, _distance(expected, noisy))
        tolerance = self._tolerance(self._value_drift, expected)
        here = Deviation(_distance(found, expected), tolerance, step)
        self._value = max(here, self._value, key=_badness)

    def copies(self, digests: Sequence[int]) -> None:
        """Take in a digest of every worker's copy, by rank."""
        differing = [rank for rank, digest in enumerate(digests) if digest != digests[0]]
        self._differing_rank = differing[0] if differing else None

    def report(self) -> ParameterReport:
        """What was found so far."""
        dtype = str(self._dtype).removeprefix("torch.")
        return ParameterReport(self._name, self._shape, dtype, self._value, self._gradient, self._differing_rank)

    def _tolerance(self, drift: float, expected: Tensor) -> float:
        largest = float(expected.abs().max()) if expected.numel() else 0.0
        return max(_FACTOR * drift, _FLOOR.get(self._dtype, 0.0) * largest)


def _distance(one: Tensor, other: Tensor) -> float:
    """The largest difference of two elements; infinite where only one of them is finite."""
    if not one.numel() or torch.equal(one, other):
        return 0.0
    difference = float((one.double() - other.double()).abs().max())
    return difference if isfinite(difference) else inf


def _badness(deviation: Deviation) -> tuple[bool, float]:
    """Too much comes before large: the tolerance grows with the steps."""
    return deviation.share > 1, deviation.value


def _off(deviation: Deviation) -> str:
    allowed = f"(tolerance {deviation.tolerance:.1e})"
    return f"is {deviation.value:.1e} away from torch's at step {deviation.step} {allowed}"


def _deviation(saved: Mapping[str, float | None]) -> Deviation:
    # JSON has no infinity.
    return Deviation(**{key: inf if value is None else value for key, value in saved.items()})  # type: ignore[arg-type]
