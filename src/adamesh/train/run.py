"""What a run is made of, and how far it is: the two records that the trainer's parts share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from adamesh.data.sampler import GlobalSampler
from adamesh.data.shares import Shares
from adamesh.tasks.base import Splits, Task
from adamesh.train.settings import RunConfig
from adamesh.train.workers import Workers

__all__ = ["Run", "Totals"]


@dataclass(frozen=True)
class Run:
    """What is given: settings, data, people and places."""

    config: RunConfig
    """Resolved."""
    task: Task[Any]
    splits: Splits[Any]
    folder: Path
    workers: Workers
    device: torch.device

    def sampler(self) -> GlobalSampler:
        """The order of the training samples."""
        assert self.config.batch_size is not None
        return GlobalSampler(len(self.splits.train), self.config.batch_size, self.config.seed)

    def shares(self) -> Shares:
        """How the workers share a batch, from an equal cut on."""
        plan, batch_size = self.config.plan, self.sampler().batch_size
        return Shares(batch_size, self.workers.size, balance=plan.balance, most_samples=plan.most_samples)

    def total_steps(self) -> int:
        """The step at which the run is finished."""
        if self.config.steps is not None:
            return self.config.steps
        assert self.config.epochs is not None
        return self.config.epochs * self.sampler().steps_per_epoch

    def due_every(self, configured: int | None, at_most: int) -> int:
        """Steps between evaluations or checkpoints: as configured, or whole epochs, ``at_most`` times.

        Where time ends the run, nobody knows how many epochs there will be: each counts.
        """
        if configured is not None:
            return configured
        epoch = self.sampler().steps_per_epoch
        if self.config.max_seconds is not None:
            return epoch
        return epoch * -(-self.total_steps() // (epoch * at_most))


@dataclass
class Totals:
    """How far the run is, over all its starts. Every checkpoint has it."""

    steps: int = 0
    samples: int = 0
    """The first ``steps`` global batches, all workers together."""
    seconds: float = 0.0
    """In the training loop, evaluations and checkpoints included."""
    step_seconds: float = 0.0
    data_wait_seconds: float = 0.0
    """Spent in steps, waiting for samples; of this worker."""
    loss: float | None = None
    """Training loss of the last step."""
    recent_loss: float = 0.0
    """Training losses since the last evaluation, added up."""
    recent_steps: int = 0
    evaluation: dict[str, float] = field(default_factory=dict)
    """The last evaluation's metrics."""

    def saved(self) -> dict[str, Any]:
        """For the checkpoint."""
        return asdict(self)

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "Totals":
        """From the checkpoint."""
        return cls(**{field.name: saved[field.name] for field in fields(cls)})
