"""Which samples a worker takes at which step: pure arithmetic, so a position is just a step number."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adamesh.data.seeds import derived_seed

__all__ = ["GlobalSampler", "share", "weighted_shares"]


def share(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Start and stop of one rank's part of ``count`` items: contiguous, sizes differ by at most one."""
    return count * rank // world_size, count * (rank + 1) // world_size


def weighted_shares(count: int, weights: Sequence[int]) -> list[int]:
    """How many of ``count`` items each rank gets, by largest remainder.

    Whole numbers throughout, so that every rank finds the same. ``weights`` that add up to ``count`` are the answer.

    Args:
        count: items.
        weights: how much each rank is to get, in relation to their sum, which is positive.
    """
    total = sum(weights)
    parts = [count * weight // total for weight in weights]
    # Of equal remainders the lower rank's comes first.
    by_remainder = sorted(range(len(weights)), key=lambda r: (-(count * weights[r] % total), r))
    for r in by_remainder[: count - sum(parts)]:
        parts[r] += 1
    return parts


@dataclass
class GlobalSampler:
    """Cuts each epoch's permutation of all samples into global batches, and those into workers' parts.

    A batch depends on the step alone, never on the number of workers; so a run resumes at any world size
    with every sample of the epoch seen exactly once. The last batch of an epoch may be short.

    Args:
        num_samples: size of the training set.
        batch_size: samples per step over all workers.
        seed: the run's seed.
    """

    num_samples: int
    batch_size: int
    seed: int
    _permutation: tuple[int, Tensor] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        assert min(self.num_samples, self.batch_size) >= 1, self

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that step ``step``, from 0, belongs to."""
        return step // self.steps_per_epoch

    def batch_samples(self, step: int) -> int:
        """How many samples step ``step``, from 0, takes."""
        return self.seen(step + 1) - self.seen(step)

    def seen(self, steps: int) -> int:
        """How many samples the first so many steps take."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self.num_samples + min(rest * self.batch_size, self.num_samples)

    def global_batch(self, step: int) -> Tensor:
        """The indices (int64) that all workers together take at this step."""
        start = step % self.steps_per_epoch * self.batch_size
        return self._epoch_order(self.epoch(step))[start : start + self.batch_size]

    def _epoch_order(self, epoch: int) -> Tensor:
        # A loader's thread may ask for the next epoch meanwhile: what was looked at is what is returned.
        held = self._permutation
        if held is None or held[0] != epoch:
            generator = torch.Generator().manual_seed(derived_seed("order", self.seed, epoch))
            held = self._permutation = (epoch, torch.randperm(self.num_samples, generator=generator, device="cpu"))
        return held[1]
