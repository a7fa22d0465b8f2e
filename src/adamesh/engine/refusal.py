"""What the guard says of a step that it did not let through."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Refusal"]


@dataclass(frozen=True)
class Refusal:
    """Why a step was skipped on all workers that would have made it; the same on each of them."""

    reason: Literal["non-finite", "norm", "loss", "sum", "replicas"]
    """A gradient that is not finite; a norm, or a loss, beyond its limit; a sum that is not finite though all that was
    summed is; parameters that were not the same on all workers."""
    value: float
    """The global gradient norm; the mean loss; the number of replicas that were repaired."""
    limit: float
    """What ``value`` must not exceed; infinite while too few steps were made to tell."""
    suspects: tuple[int, ...] = ()
    """The workers whose own part was as bad; empty where nobody's stands out."""
    parameter: str | None = None
    """Where the first suspect's gradient is the worst, or the first parameter that was not the same."""

    def __str__(self) -> str:
        who = f" on worker {', '.join(map(str, self.suspects))}" if self.suspects else ""
        where = f", worst in {self.parameter!r}" if self.parameter is not None else ""
        if self.reason == "replicas":
            return f"parameters differed{who}, first in {self.parameter!r}; they were brought back"
        if self.reason == "sum":
            return f"the sum of finite gradients is not finite{who}"
        what = "loss" if self.reason == "loss" else "gradient norm"
        beyond = "" if self.reason == "non-finite" else f", above {self.limit:.3g}"
        return f"{what} {self.value:.3g}{beyond}{who}{where}"
