from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from adamesh.tasks.catalog import find_task
from adamesh.train.config import RunConfig, resolved
from adamesh.train.run import Run
from adamesh.train.step import Stepper
from adamesh.train.workers import GroupWorkers

TASK = find_task("regression")
DATA: Any = TASK.load_data(None, seed=0)
for part in (DATA.train, DATA.test):
    part._inputs, part._targets = part._inputs.double(), part._targets.double()


class GradientsOnly:
    """An optimizer that keeps the gradients instead of using them."""

    needs_closure = False

    def __init__(self, parameters, lr):
        self.defaults = {"lr": lr}
        self.param_groups = [{"params": list(parameters), "lr": lr}]

    def step(self):
        parameters = self.param_groups[0]["params"]
        self.seen = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]

    def zero_grad(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def no_sync(self):
        return nullcontext()


def stepper(config, rank, size, lr, lr_taken_over=None) -> tuple[Stepper, Any]:
    """One worker of ``size``, alone; a newcomer's optimizer has taken over the others' rate."""
    torch.manual_seed(0)
    model = TASK.build_model().double()
    optimizer: Any = GradientsOnly(model.parameters(), lr)
    optimizer.param_groups[0]["lr"] = lr_taken_over or lr
    run = Run(config, TASK, DATA, Path(), GroupWorkers(rank, size, group=None), torch.device("cpu"))
    return Stepper(run, model, optimizer), optimizer


def taken(config, rank, size, step):
    """The gradients and the loss share of one worker."""
    one, optimizer = stepper(config, rank, size, lr=0.1)
    local = one.take(step)
    return optimizer.seen, local


# Step 2 of 1,024 samples in batches of 511 has two samples only: at three workers one has none.
@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_mean_over_workers_is_the_gradient_of_the_whole_batch(step, micro_batches):
    config = resolved(RunConfig(batch_size=511, micro_batches=micro_batches), TASK)
    whole, alone = taken(config, 0, 1, step)
    for size in (2, 3, 4):
        parts = [taken(config, rank, size, step) for rank in range(size)]
        for position, gradient in enumerate(whole):
            mean = sum(gradients[position] for gradients, _ in parts) / size
            torch.testing.assert_close(mean, gradient)
        assert sum(local.loss_share for _, local in parts) == pytest.approx(alone.loss_share)
        assert {local.samples for _, local in parts} == {alone.samples}


def test_the_schedule_scales_the_initial_rate_whatever_the_rate_is_now():
    config = resolved(RunConfig(steps=10), TASK)
    one, optimizer = stepper(config, 0, 1, lr=2.0)
    optimizer.param_groups[0]["lr"] = 123.0
    assert one.take(0).lr == 2.0


def test_a_newcomer_scales_the_initial_rate_and_not_the_one_that_the_others_are_at():
    one, _ = stepper(resolved(RunConfig(steps=10), TASK), 0, 1, lr=2.0, lr_taken_over=0.5)
    assert one.take(0).lr == 2.0
    assert one.take(5).lr == pytest.approx(1.0)
