"""The ledger: proof, in 24 bytes, of which samples a run has trained on.

Each worker tallies what it has really used in a step; the tallies of all workers add up to the step's, those of all
steps to the run's. Neither who used a sample nor in what order changes a tally, and a sample that is missing, was used
twice or in another step does. So a run that has lost workers on its way can be compared with what it should have been,
which :func:`expected` knows by arithmetic.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adamesh.data.draws import mixed
from adamesh.data.sampler import GlobalSampler

__all__ = ["Ledger", "Tally", "expected", "tally"]

_WORD = 1 << 64
_HALF = 1 << 32


@dataclass(frozen=True)
class Tally:
    """Samples used in one step, by one worker or by several."""

    count: int = 0
    digest: int = 0
    """The sum, modulo 2**64, of a 64-bit hash of (step, sample) over them."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.count + other.count, (self.digest + other.digest) % _WORD)

    def limbs(self) -> list[float]:
        """Three whole numbers, whose sums over up to 2**21 workers are exact in double precision."""
        return [float(self.count), float(self.digest % _HALF), float(self.digest // _HALF)]

    @classmethod
    def of_limbs(cls, sums: Iterable[float]) -> "Tally":
        """From the sums of the workers' :meth:`limbs`."""
        count, low, high = map(int, sums)
        return cls(count, (low + _HALF * high) % _WORD)


def tally(step: int, indices: Tensor) -> Tally:
    """What using these samples in step ``step``, from 0, adds to the ledger.

    Args:
        step: its number, from 0.
        indices: the samples' numbers, int64, on the CPU.
    """
    # Twice: mixed once, step 3 with sample 5 would be step 5 with sample 3.
    step_key = mixed(mixed(torch.tensor(step + 1, device="cpu")))
    keys = mixed(mixed(indices + 1) + step_key)
    return Tally(indices.numel(), int(keys.sum()) % _WORD)  # int64 sums wrap, as they should


@dataclass(frozen=True)
class Ledger:
    """What a run has trained on in its first ``steps`` steps."""

    steps: int = 0
    samples: int = 0
    digest: int = 0

    def after(self, step: Tally) -> "Ledger":
        """The ledger once another step's tally, of all workers, is in it."""
        return Ledger(self.steps + 1, self.samples + step.count, (self.digest + step.digest) % _WORD)

    def saved(self) -> dict[str, Any]:
        """As JSON keeps it: the digest in 16 hexadecimal digits."""
        return {"steps": self.steps, "samples": self.samples, "digest": f"{self.digest:016x}"}

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "Ledger":
        """The inverse of :meth:`saved`."""
        return cls(saved["steps"], saved["samples"], int(saved["digest"], 16))


def expected(sampler: GlobalSampler, steps: int) -> Ledger:
    """The ledger of a run in which nothing was lost and nothing used twice."""
    ledger = Ledger()
    for step in range(steps):
        ledger = ledger.after(tally(step, sampler.global_batch(step)))
    return ledger
