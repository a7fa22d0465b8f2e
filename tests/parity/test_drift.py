"""In float32, regrouped sums drift. adamesh drifts from the single process no further than DDP does."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from adamesh.comm.process_group import process_mesh
from tests.device import DEVICE
from tests.parity.zoo import Recipe, Values, alone, by_ddp, on_mesh
from tests.tolerances import DRIFT_MAX, DRIFT_RMS

SEEDS, STEPS = range(8), 15
RECIPES = {
    "plain": Recipe(torch.float32),
    "clipped-accumulated-scheduled": Recipe(torch.float32, max_grad_norm=0.5, micro_batches=2, scheduled=True),
}


def at_the_end(trained: tuple[list[Values], object]) -> Tensor:
    return torch.cat([p.reshape(-1) for p in trained[0][-1].values()])


def by_ddp_and_by_adamesh(recipe: Recipe) -> list[tuple[Tensor, Tensor]]:
    """For each seed, where DDP with fused AdamW ends, and where adamesh does."""
    mesh = process_mesh(None, DEVICE, 20.0)
    return [(at_the_end(by_ddp(recipe, STEPS, seed)), at_the_end(on_mesh(mesh, recipe, STEPS, seed))) for seed in SEEDS]


def largest(drifts: Sequence[Tensor]) -> float:
    return max(float(drift.abs().max()) for drift in drifts)


def root_mean_square(drifts: Sequence[Tensor]) -> float:
    return math.sqrt(float(torch.cat([*drifts]).double().square().mean()))


@pytest.mark.parametrize("num_workers", [2, pytest.param(3, marks=pytest.mark.soak), 4])
@pytest.mark.parametrize("name", RECIPES)
def test_a_float32_model_drifts_no_further_from_the_single_process_than_ddp(pool, name, num_workers, record_property):
    single = [at_the_end(alone(RECIPES[name], STEPS, seed)) for seed in SEEDS]
    ends = pool.run(num_workers, by_ddp_and_by_adamesh, RECIPES[name])[0]
    ddp = [theirs - end for (theirs, _), end in zip(ends, single, strict=True)]
    ours = [mine - end for (_, mine), end in zip(ends, single, strict=True)]
    for statistic in (largest, root_mean_square):
        measured = f"adamesh {statistic(ours):.3g}, DDP {statistic(ddp):.3g}"
        record_property(f"{statistic.__name__} drift", measured)
        print(f"{name}, {num_workers} workers, {statistic.__name__} drift: {measured}")
    assert root_mean_square(ours) <= DRIFT_RMS * root_mean_square(ddp)
    assert largest(ours) <= DRIFT_MAX * largest(ddp)
