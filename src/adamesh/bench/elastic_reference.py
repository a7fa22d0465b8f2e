"""What ``adamesh bench elastic`` should come to: the same steps in one process, without a fault."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adamesh.bench.elastic_worker import NUM_SAMPLES, Course, build, loss, samples
from adamesh.data.sampler import GlobalSampler
from adamesh.data.shares import Shares

__all__ = ["distance", "final_loss", "train_alone"]


def train_alone(course: Course, workers: Sequence[int]) -> dict[str, Tensor]:
    """Final parameters in double precision, trained by torch's own AdamW in the precision of the course.

    Args:
        course: what is trained; gradients are exact.
        workers: of each step: among how many its batch is cut, as sums of other parts are rounded otherwise.
    """
    model, (x, y) = build(course), samples(course)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sampler = GlobalSampler(NUM_SAMPLES, course.batch_size, course.seed)
    for step, size in enumerate(workers):
        batch = sampler.global_batch(step)
        shares = Shares(course.batch_size, size, balance=False, most_samples=None)
        for rank in range(size if course.dtype == "float32" else 1):
            start, stop = shares.span(len(batch), rank) if course.dtype == "float32" else (0, len(batch))
            if start < stop:
                part = batch[start:stop]
                (loss(model, x[part], y[part]) * (len(part) / len(batch))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().double() for name, value in model.named_parameters()}


def distance(mine: Mapping[str, Tensor], its: Mapping[str, Tensor]) -> float:
    """The norm of the difference, as a share of the norm of the second."""
    apart = sum(float((mine[name].double() - its[name].double()).square().sum()) for name in its)
    return float((apart / sum(float(value.double().square().sum()) for value in its.values())) ** 0.5)


def final_loss(course: Course, state: Mapping[str, Tensor]) -> float:
    """Over all samples."""
    model, (x, y) = build(course), samples(course)
    model.load_state_dict(dict(state))
    with torch.no_grad():
        return float(loss(model, x, y))
