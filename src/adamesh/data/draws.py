"""Random numbers that belong to a sample, not to a moment: the same whoever draws them, in whatever order.

Augmentation and masking take them from here, so that a sample looks the same at any number of workers, after a
resume, and in a loader that runs ahead.
"""

import torch
from torch import Tensor

__all__ = ["mixed", "uniform"]

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
_MIX_1 = -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
_MIX_2 = -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB


def uniform(seed: int, indices: Tensor, num: int) -> Tensor:
    """``num`` numbers in [0, 1) for each sample: a pure function of the seed, the sample's index and the column.

    splitmix64 (Steele, Lea & Flood 2014) of a counter.

    Args:
        seed: whatever sets these draws apart from others: of the run, the epoch and the purpose
            (`adamesh.data.seeds.derived_seed`).
        indices: the samples' numbers, int64 [n].
        num: draws per sample.

    Returns:
        float64 [n, num].
    """
    keys = mixed(indices.reshape(-1, 1) * _GOLDEN + seed)
    counters = keys + torch.arange(1, num + 1, dtype=torch.int64, device="cpu") * _GOLDEN
    return _shifted(mixed(counters), 11).double() * 2.0**-53


def mixed(state: Tensor) -> Tensor:
    """The finalizer of splitmix64: int64 numbers, one to one, to ones whose every bit depends on every bit."""
    state = (state ^ _shifted(state, 30)) * _MIX_1
    state = (state ^ _shifted(state, 27)) * _MIX_2
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """A shift to the right of 64 bits without a sign, which torch's int64 shift would carry along."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
