"""What is to be planned for: a task with its settings, and how many workers share it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adamesh.data.seeds import derived_seed
from adamesh.data.split import AugmentedSplit
from adamesh.errors import ConfigurationError, DataError
from adamesh.optimizer import MeshOptimizer
from adamesh.tasks.base import Splits, Task
from adamesh.tasks.catalog import find_task
from adamesh.train.config import RunConfig, resolved

__all__ = ["Case", "open_case"]


@dataclass(frozen=True)
class Case:
    """A task, its settings, and the number of workers."""

    config: RunConfig
    """Resolved."""
    task: Task[Any]
    splits: Splits[Any]
    world: int

    @property
    def share(self) -> int:
        """Samples of a global batch that the first worker gets, who gets the most."""
        assert self.config.batch_size is not None
        return -(-self.config.batch_size // self.world)

    def micro_batches(self) -> list[Any]:
        """A worker's share of a batch, in the parts that it computes one after the other."""
        indices = torch.arange(self.share) % len(self.splits.train)
        split, seed = self.splits.train, derived_seed("augment", self.config.seed, 0)
        parts = [part for part in indices.tensor_split(self.config.micro_batches) if len(part)]
        if isinstance(split, AugmentedSplit):
            return [split.augmented_batch(part, seed) for part in parts]
        return [split.batch(part) for part in parts]

    def build_model(self) -> nn.Module:
        """The task's, as training begins with it."""
        torch.manual_seed(derived_seed("model", self.config.seed))
        return self.task.build_model().train()

    def step(self, model: nn.Module, optimizer: MeshOptimizer, batches: Sequence[Any]) -> None:
        """One training step on a worker's share, as `adamesh.train.step` takes it."""
        for batch in batches:
            with nullcontext() if batch is batches[-1] else optimizer.no_sync():
                with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
                    loss = self.task.loss(model, batch)
                (loss / len(batches)).backward()
        optimizer.step()
        optimizer.zero_grad()


def open_case(config: RunConfig, world: int) -> Case:
    """Find the task, fill in its defaults and read its data.

    Raises:
        ConfigurationError: there is no such task, or so many workers cannot share its batch.
        DataError: its data cannot be read, or are empty.
    """
    task = find_task(config.task)
    config = resolved(config, task)
    config.check_world(world)
    if config.optim.rule == "lbfgs":
        raise ConfigurationError(
            "optim.rule = 'lbfgs': how often a step evaluates the loss depends on the loss; plan with another rule"
        )
    splits = task.load_data(config.data, config.seed)
    if not len(splits.train):
        raise DataError(f"the training data of {task.name} is empty; give it at least one sample")
    return Case(config, task, splits, world)
