"""What is on its way for several steps, over real sockets: the same to the bit as among threads."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.comm.threads import ThreadWorld
from tests.device import DEVICE
from tests.process_pool import ProcessPool
from tests.sync.world import Islander, alike

SCHEDULES = {
    "every-3": adamesh.EveryH(3),
    "streaming": adamesh.DiLoCo(4, fragments=2, delay=2, codec=adamesh.Feedback(adamesh.Int4())),
    "stale": adamesh.Stale(2),
}


def trained(mesh: Mesh, name: str) -> dict[str, torch.Tensor]:
    islander = Islander(mesh, SCHEDULES[name]).train(range(10))
    with islander.optimizer.agreed():
        return islander.values


def in_process(name: str, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    device_mesh = init_device_mesh(DEVICE.type, shape, mesh_dim_names=("replicate", "shard"))
    return trained(process_mesh(device_mesh, DEVICE, timeout_s=20.0), name)


@pytest.mark.parametrize("shape", [(2, 1), (2, 2)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_processes_do_what_threads_do(pool: ProcessPool, name, shape):
    found = pool.run(shape[0] * shape[1], in_process, name, shape)
    threads = ThreadWorld(*shape).run(trained, name)
    assert all(alike(values, threads[0]) for values in [*found, *threads])
