"""Has the model learnt anything of its inputs? On test data, and on the same with inputs that are not theirs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adamesh.data.sampler import share
from adamesh.train.evaluate import to_device
from adamesh.train.run import Run
from adamesh.tune.rate.curve import Look

__all__ = ["Pairing", "mismatched"]


class Pairing:
    """Compares, now and then, the loss on a batch of test data with that on mismatched pairs of the same batch.

    The training loss falls on labels that are random, too: outputs go to where they cost least, and what comes again
    is learnt by heart. Neither makes the right pairs of unseen data any better than wrong ones.

    Args:
        run: whose.
        model: in training mode; stays there, so that batch norm's statistics are those of the batch.
    """

    def __init__(self, run: Run, model: nn.Module) -> None:
        self._run = run
        self._model = model
        self._test = run.splits.test
        self._size = min(run.sampler().batch_size, len(self._test))
        self._next = 0

    def look(self, step: int) -> list[Look]:
        """A look at the next batch of test data, or nothing where batches have no pairs. Collective.

        Which inputs are put to which targets depends on the batch alone, not on how workers share it.
        """
        run = self._run
        indices = (self._next + torch.arange(self._size)) % len(self._test)
        self._next = (self._next + self._size) % len(self._test)
        start, stop = share(self._size, run.workers.rank, run.workers.size)
        sums = [0.0, 0.0, 0.0]
        if stop > start:
            batch = self._test.batch(indices[start:stop])
            wrong = mismatched(batch, self._test.batch(indices.roll(1)[start:stop]))
            if self._size > 1 and wrong is not None:
                weight = (stop - start) / self._size
                sums = [weight * self._loss(batch), weight * self._loss(wrong), weight]
        right, wrong_loss, seen = run.workers.sum(sums)
        return [Look(step, right, wrong_loss)] if seen > 0.5 else []

    @torch.no_grad()
    def _loss(self, batch: Any) -> float:
        run = self._run
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bf16"):
            return float(run.task.loss(self._model, to_device(batch, run.device)))


def mismatched(batch: Any, other: Any) -> Any | None:
    """The batch with the first of its parts from ``other``; None where it has no parts of the same shapes."""
    if isinstance(batch, Mapping):
        parts, others = list(batch.values()), list(other.values())
    elif isinstance(batch, tuple | list):
        parts, others = list(batch), list(other)
    else:
        return None
    tensors = [isinstance(part, Tensor) and isinstance(o, Tensor) for part, o in zip(parts, others, strict=True)]
    if len(parts) < 2 or not all(tensors) or any(p.shape != o.shape for p, o in zip(parts, others, strict=True)):
        return None
    mixed = [others[0], *parts[1:]]
    return dict(zip(batch, mixed, strict=True)) if isinstance(batch, Mapping) else type(batch)(mixed)
