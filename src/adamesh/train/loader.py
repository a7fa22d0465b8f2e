"""Batches, prepared while the model computes: which samples a step takes is arithmetic, so running ahead is safe."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adamesh.data.ledger import Tally, tally
from adamesh.data.sampler import GlobalSampler
from adamesh.data.seeds import derived_seed
from adamesh.data.split import AugmentedSplit
from adamesh.train.run import Run

__all__ = ["Loader", "Part", "StepData", "prepared", "training_batch"]


@dataclass(frozen=True)
class Part:
    """One micro-batch of this worker."""

    batch: Any
    """What the split returned, on the CPU."""
    samples: int
    share: int
    """Which share of the step's batch it is of: as a rule, this worker's own."""
    tally: Tally
    """Of these samples, in this step."""


@dataclass(frozen=True)
class StepData:
    """What this worker trains on in one step."""

    parts: tuple[Part, ...]
    """Empty where the last batch of an epoch is smaller than the number of workers."""
    global_samples: int
    """Of the step's batch, over all workers."""
    waited_s: float
    """How long the step waited for it."""


class Loader:
    """Gives this worker its samples of any step, and prepares those of the next ones in a thread.

    A position is a step number: after a resume, at any number of workers, every sample of the epoch is seen exactly
    once. A split's ``batch`` runs beside the training step, so it must not draw from torch's global random state;
    `adamesh.data.draws` has numbers that belong to a sample.

    Args:
        run: whose; its ``config.prefetch`` says how many steps to be ahead, 0: none, and no thread.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sampler = run.sampler()
        self._total_steps = run.total_steps()
        self._shares = run.shares()
        self._ahead = run.config.prefetch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="adamesh-loader") if self._ahead else None
        self._coming: dict[int, tuple[tuple[int, int], Future[tuple[Part, ...]]]] = {}
        """Step -> this worker's part of its batch, and what it is prepared from."""

    def take(self, step: int) -> StepData:
        """This worker's part of step ``step``, from 0.

        Raises whatever the split raised while it prepared the batch.
        """
        start_s = time.perf_counter()
        thread = self._thread
        rank = self._run.workers.rank
        parts = self._prepare(step, rank, self.span(step, rank)) if thread is None else self._prepared(thread, step)
        waited_s = time.perf_counter() - start_s
        return StepData(parts, self._sampler.batch_samples(step), waited_s)

    def observe(self, step: int, work_s: Sequence[float]) -> None:
        """Step ``step`` was made, and took the workers so long, by rank; shares may change, the next step's already."""
        self._shares.observe(self._sampler.batch_samples(step), work_s)

    def take_shares(self, step: int, shares: Sequence[int]) -> StepData:
        """These shares of step ``step``, from 0, whosever they are."""
        start_s = time.perf_counter()
        parts = tuple(part for share in shares for part in self._prepare(step, share, self.span(step, share)))
        waited_s = time.perf_counter() - start_s
        return StepData(parts, self._sampler.batch_samples(step), waited_s)

    def regrouped(self) -> None:
        """The workers are others from now on: what was prepared is cut for those before."""
        self._shares = self._run.shares()
        for _, future in self._coming.values():
            future.cancel()
        self._coming.clear()

    def close(self) -> None:
        """Drop what was prepared and end the thread; a batch under way is finished first."""
        self._coming.clear()
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _prepared(self, thread: ThreadPoolExecutor, step: int) -> tuple[Part, ...]:
        wanted = range(step, min(step + 1 + self._ahead, max(self._total_steps, step + 1)))
        rank = self._run.workers.rank
        spans = {number: self.span(number, rank) for number in wanted}
        # What was cut by old shares is made anew, of the steps in which this worker's part is another.
        for number in [number for number, (span, _) in self._coming.items() if spans.get(number) != span]:
            self._coming.pop(number)[1].cancel()
        for number, span in spans.items():
            if number not in self._coming:
                self._coming[number] = span, thread.submit(self._prepare, number, rank, span)
        return self._coming.pop(step)[1].result()

    def span(self, step: int, share: int) -> tuple[int, int]:
        """Start and stop, in the step's batch, of one worker's share."""
        return self._shares.span(self._sampler.batch_samples(step), share)

    def _prepare(self, step: int, share: int, span: tuple[int, int]) -> tuple[Part, ...]:
        return prepared(self._run, self._sampler, step, share, span)


def prepared(run: Run, sampler: GlobalSampler, step: int, number: int, span: tuple[int, int]) -> tuple[Part, ...]:
    """Share ``number`` of a step's global batch: its samples from ``span[0]`` up to ``span[1]``."""
    start, stop = span
    indices = sampler.global_batch(step)
    epoch = sampler.epoch(step)
    parts = []
    for part in indices[start:stop].tensor_split(run.config.micro_batches):
        if len(part):
            batch = training_batch(run, part, epoch)
            batch = _pinned(batch) if run.device.type == "cuda" else batch
            parts.append(Part(batch, len(part), number, tally(step, part)))
    return tuple(parts)


def training_batch(run: Run, indices: Tensor, epoch: int) -> Any:
    """These samples of the training split as they look in this epoch, on the CPU."""
    split = run.splits.train
    if isinstance(split, AugmentedSplit):
        return split.augmented_batch(indices, derived_seed("augment", run.config.seed, epoch))
    return split.batch(indices)


def _pinned(batch: Any) -> Any:
    """In memory that a GPU can fetch from by itself."""
    from torch.utils.data._utils.pin_memory import pin_memory

    return pin_memory(batch)
