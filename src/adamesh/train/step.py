"""One optimizer step of one worker: its part of the global batch, weighted so that any cut is exact."""

import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from adamesh.data.ledger import Tally
from adamesh.data.seeds import derived_seed
from adamesh.optimizer import MeshOptimizer
from adamesh.train.evaluate import to_device
from adamesh.train.loader import Loader, Part, StepData
from adamesh.train.names import AnyOptimizer
from adamesh.train.run import Run
from adamesh.train.schedules import lr_factor
from adamesh.train.vitals import Vitals

__all__ = ["LocalStep", "Stepper"]

_NOTE = struct.Struct("<4d")
"""A loss share, and a tally's limbs."""


@dataclass(frozen=True)
class LocalStep:
    """What this worker did in a step."""

    loss_share: float
    """This worker's part of the mean loss of the global batch: all workers' shares add up to it."""
    samples: int
    """Of the global batch, over all workers."""
    lr: float
    """Of the first parameter group."""
    tally: Tally
    """Of the samples that this worker used, for the ledger."""
    data_wait_s: float
    """Seconds that this worker waited for its samples."""
    known: Sequence[float] | None = None
    """All workers' loss shares and tallies, added up, where that is known without another word."""
    skipped: bool = False
    """The guard had the step passed over: its samples have moved nothing."""
    vitals: Mapping[str, float] = field(default_factory=dict)
    """What a look at the gradients has shown, in steps that are looked at."""


class Stepper:
    """Takes the steps of a run.

    Args:
        run: whose.
        model: on the run's device, in training mode.
        optimizer: of the model's parameters, not loaded yet: its learning rates are the initial ones.
        tells: let all workers know of each other, with the step itself, what they bring into it.
        factor: on the initial learning rates at each step, from 0; None: the run's schedule.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        optimizer: AnyOptimizer,
        *,
        tells: bool = False,
        factor: Callable[[int], float] | None = None,
    ) -> None:
        self._run = run
        self._model = model
        self._optimizer = optimizer
        self._tells = tells
        self._loader = Loader(run)
        self._vitals = Vitals(model, run.config.log_every)
        schedule, total_steps = run.config.schedule, run.total_steps()
        self._factor = factor or (lambda step: lr_factor(schedule, step, total_steps))
        groups = optimizer.param_groups
        # Not the groups': a newcomer's optimizer has taken over the learning rates of a step under way.
        self._initial_lrs = [optimizer.defaults["lr"] for _ in groups]

    def take(self, step: int, shares: Sequence[int] | None = None) -> LocalStep:
        """Forward, backward and update on this worker's samples of step ``step``, from 0. Collective.

        Args:
            step: which.
            shares: the shares of the global batch that this worker computes; None: its own.
        """
        config, workers = self._run.config, self._run.workers
        factor = self._factor(step)
        for group, initial_lr in zip(self._optimizer.param_groups, self._initial_lrs, strict=True):
            group["lr"] = initial_lr * factor
        if isinstance(self._optimizer, MeshOptimizer):
            self._optimizer.begin_work()
        data = self._loader.take(step) if shares is None else self._loader.take_shares(step, shares)

        def evaluate() -> float:
            return self._accumulate(data, step)

        def closure() -> float:
            self._optimizer.zero_grad()
            return evaluate() * workers.size  # the optimizer averages over workers

        used, vitals = sum((part.tally for part in data.parts), Tally()), {}
        if self._optimizer.needs_closure:
            loss_share = self._optimizer.step(closure) / workers.size
        else:
            loss_share = evaluate()
            if workers.is_first and data.parts:
                vitals = self._vitals.look(step)
            if isinstance(self._optimizer, MeshOptimizer):
                self._optimizer.tell_loss(loss_share * workers.size)
                if self._tells:
                    self._optimizer.attach(_NOTE.pack(loss_share, *used.limbs()))
            self._optimizer.step()
        self._optimizer.zero_grad()
        if config.plan.balance and shares is None and self._optimizer.stats().committed:
            self._loader.observe(step, self._optimizer.stats().work_s)
        lr = self._optimizer.param_groups[0]["lr"]
        known = None
        if self._tells and isinstance(self._optimizer, MeshOptimizer):
            known = [sum(column) for column in zip(*map(_NOTE.unpack, self._optimizer.notes), strict=True)]
        return LocalStep(loss_share, data.global_samples, lr, used, data.waited_s, known, vitals=vitals)

    def span(self, step: int, share: int) -> tuple[int, int]:
        """Start and stop, in the batch of step ``step``, of one worker's share."""
        return self._loader.span(step, share)

    def regrouped(self) -> None:
        """The workers are others from now on."""
        self._loader.regrouped()

    def close(self) -> None:
        """No more steps will be taken."""
        self._loader.close()

    def _accumulate(self, data: StepData, step: int) -> float:
        """Backward over this worker's samples; a worker without any leaves it out, which counts as zeros."""
        loss_share = torch.zeros((), device=self._run.device)
        share = None
        for part in data.parts:
            if part.share != share:
                # Dropout draws from a stream of this step's and share's own: nothing of it needs saving, and whoever
                # evaluates it, and how often, gets the same function each time.
                share = part.share
                torch.manual_seed(derived_seed("step", self._run.config.seed, step, share))
            with nullcontext() if part is data.parts[-1] else self._optimizer.no_sync():
                loss_share += self._backward(part, data.global_samples)
        return float(loss_share)

    def _backward(self, part: Part, global_samples: int) -> Tensor:
        run = self._run
        batch = to_device(part.batch, run.device)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.config.precision == "bf16"):
            loss = run.task.loss(self._model, batch)
        loss_share = loss * (part.samples / global_samples)
        # The optimizer averages over workers; times their number, that is the sum of the shares.
        (loss_share * run.workers.size).backward()
        return loss_share.detach().float()
