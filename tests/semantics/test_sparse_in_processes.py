"""Tables over real sockets."""

import pytest
from torch.distributed.device_mesh import init_device_mesh

from adamesh.comm.process_group import process_mesh
from tests.device import DEVICE
from tests.parity.recommender import Recipe, Recommender, Values, apart, on_mesh, take_steps, values
from tests.process_pool import ProcessPool

RECIPES = {mode: Recipe(mode, 6, max_grad_norm=0.5) for mode in ("lazy", "decayed", "exact")}


def live(shape: tuple[int, int], recipe: Recipe) -> Values:
    device_mesh = init_device_mesh(DEVICE.type, shape, mesh_dim_names=("replicate", "shard"))
    mesh = process_mesh(device_mesh, DEVICE, timeout_s=20.0)
    model = Recommender(recipe.dtype)
    optimizer = recipe.optimizer(model, mesh)
    take_steps(mesh, model, optimizer, range(recipe.steps))
    optimizer.flush()
    return values(model)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2)], ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("mode", RECIPES)
def test_processes_end_with_the_bits_that_threads_end_with(pool: ProcessPool, mode, shape):
    expected = on_mesh(shape, RECIPES[mode])
    for result in pool.run(shape[0] * shape[1], live, shape, RECIPES[mode]):
        assert apart(result, expected) == 0.0
