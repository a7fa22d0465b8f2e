"""Samples for a training loop of one's own, whose workers may change from one step to the next."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from adamesh.comm.base import Mesh
from adamesh.data.sampler import GlobalSampler
from adamesh.data.shares import Shares
from adamesh.errors import ConfigurationError
from adamesh.plan import Plan

__all__ = ["ElasticSampler", "Steps"]


class Steps(Protocol):
    """What is needed of an optimizer; all of adamesh's have it."""

    @property
    def steps_made(self) -> int:
        """Steps that all workers have made; the number, from 0, of the one to come."""

    @property
    def mesh(self) -> Mesh:
        """The workers of now."""

    @property
    def plan(self) -> Plan:
        """How they share the work."""

    def stats(self) -> Any:
        """Of the last call of ``step()``, a new object each time; ``work_s`` is what `begin_work` has measured."""

    def begin_work(self) -> None:
        """Work on the next step begins."""


class ElasticSampler:
    """This worker's samples of each step that an optimizer is about to make.

    Step *t* takes the same samples whoever the workers are: the permutation of an epoch is cut into global batches, and
    a batch among the workers of now. Where the sampler is, is the optimizer's number of steps, so a checkpoint need not
    hold it; and after a step that was not made (a worker was lost) the same samples come again, cut among those who are
    left. So every sample of an epoch is trained on exactly once.

    The optimizer averages over workers, whose shares may differ in size: a loss that is a mean over this worker's
    samples is to be multiplied by `weight`. A worker may get no samples (of the last batch of an epoch); it then
    leaves forward and backward out, and takes part in ``step()``.

    With ``Plan(balance=True)`` faster workers get more: shares follow the time between the samples of a step and its
    ``step()``, as measured on all workers in the steps before.

    Examples:
        >>> import torch, adamesh
        >>> data, model = torch.randn(100, 4), torch.nn.Linear(4, 1)
        >>> optimizer = adamesh.AdamW(model.parameters(), lr=1e-3)
        >>> sampler = adamesh.ElasticSampler(len(data), batch_size=32, optimizer=optimizer, epochs=2)
        >>> for indices in sampler:
        ...     if len(indices):
        ...         (model(data[indices]).square().mean() * sampler.weight).backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> optimizer.steps_made
        8

    Args:
        num_samples: size of the training set.
        batch_size: samples per step over all workers.
        optimizer: whose steps are counted, and whose workers share a batch.
        seed: of the permutations; the same on every worker.
        epochs: after how many iteration ends, counted from the optimizer's first step, not from the loop's start.
        micro_batches: parts that this worker's share comes in, one after the other, some perhaps empty; ``step()``
            belongs after the last (`closes_step`), the backwards of the others under ``optimizer.no_sync()``.
        most_samples: with ``Plan(balance=True)``, the most that a worker gets of a batch (what its memory holds, times
            ``micro_batches``); None: any number. An equal share is never refused.

    Raises:
        ConfigurationError: a number is out of range, or workers are not at the same step (``sync=Async(...)``); while
            iterating: ``step()`` was called too early, or not at all.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        optimizer: Steps,
        *,
        seed: int = 0,
        epochs: int = 1,
        micro_batches: int = 1,
        most_samples: int | None = None,
    ) -> None:
        numbers = {"num_samples": num_samples, "batch_size": batch_size, "micro_batches": micro_batches}
        for name, value in (numbers | {"epochs": epochs}).items():
            if not value >= 1:
                raise ConfigurationError(f"{name}={value} is out of range: it must be at least 1")
        if optimizer.plan.sync.at(0).pushes is not None:
            raise ConfigurationError(
                f"ElasticSampler with sync={optimizer.plan.sync}: each worker is at a step of its own, so there is no "
                "batch that they share. Let workers draw from one counter, as adamesh train does (docs/async.md)"
            )
        self.order = GlobalSampler(num_samples, batch_size, seed)
        """Which samples a step takes, of all workers together."""
        self.step = optimizer.steps_made
        """The step, from 0, whose samples came last."""
        self.weight = 0.0
        """What a mean loss over the samples that came last is to be multiplied by, so that the optimizer's mean over
        workers is the mean over the global batch: samples times workers over samples of the batch."""
        self.closes_step = False
        """Whether ``step()`` belongs after the samples that came last."""
        if most_samples is not None and not optimizer.plan.balance:
            raise ConfigurationError(
                f"most_samples={most_samples} without Plan(balance=True): shares are equal; leave it out"
            )
        self._optimizer = optimizer
        self._most_samples = most_samples
        self._world = optimizer.mesh.world
        self._shares = self._fresh_shares()
        self._micro_batches = micro_batches
        self._end = epochs * self.order.steps_per_epoch

    @property
    def epoch(self) -> int:
        """The epoch, from 0, of `step`."""
        return self.order.epoch(self.step)

    def __iter__(self) -> Iterator[Tensor]:
        optimizer = self._optimizer
        while optimizer.steps_made < self._end:
            self.step, before = optimizer.steps_made, optimizer.stats()
            batch = self.order.global_batch(self.step)
            world = optimizer.mesh.world
            if world is not self._world:  # others have come or gone, and what was known of speeds is not known to all
                self._world = world
                self._shares = self._fresh_shares()
            start, stop = self._shares.span(len(batch), world.rank)
            parts = batch[start:stop].tensor_split(self._micro_batches)
            optimizer.begin_work()
            for number, indices in enumerate(parts, 1):
                self.weight = len(indices) * world.size / len(batch)
                self.closes_step = number == len(parts)
                yield indices
                self._check(before, number)
            if optimizer.steps_made > self.step and world is optimizer.mesh.world and optimizer.plan.balance:
                self._shares.observe(len(batch), optimizer.stats().work_s)

    def _fresh_shares(self) -> Shares:
        """Equal ones, until speeds are known."""
        size, balance = self._world.size, self._optimizer.plan.balance
        return Shares(self.order.batch_size, size, balance=balance, most_samples=self._most_samples)

    def _check(self, before: object, number: int) -> None:
        """What the loop did with part ``number`` of the step."""
        stepped = self._optimizer.stats() is not before
        if stepped and not self.closes_step:
            raise ConfigurationError(
                f"step() was called after part {number} of {self._micro_batches} of step {self.step}'s samples: the "
                "others would be lost. Call it where sampler.closes_step is true"
            )
        if self.closes_step and not stepped:
            raise ConfigurationError(
                f"the loop asks for more samples and has not called optimizer.step() on those of step {self.step}: "
                "they would come again. Call it for each; to accumulate gradients over several parts of a batch, give "
                "ElasticSampler(micro_batches=...)"
            )
