"""torch.set_default_device is the user's: buffers are where parameters are, and messages on the host."""

import pytest
import torch
from torch import Tensor

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.comm.threads import ThreadWorld
from tests.device import DEVICE
from tests.parity.zoo import Recipe, Zoo, identical, loss, micro_batches
from tests.plans import PLANS
from tests.process_pool import ProcessPool

ALL = PLANS | {"async": {"sync": adamesh.Async(staleness=0)}}
STEPS = 5


def trained(mesh: Mesh, name: str, default: str) -> dict[str, Tensor]:
    """With another default device around all that is the optimizer's; on "meta" there are no numbers."""
    recipe, model = Recipe(), Zoo(0).double()
    with torch.device(default):
        optimizer = recipe.build(adamesh, model, plan=adamesh.Plan(mesh=mesh, bucket_mb=1e-3, **ALL[name]))
    for step in range(STEPS):
        optimizer.zero_grad()
        micro = micro_batches(recipe, step, mesh.world.rank, mesh.world.size)[0]
        with torch.device(default):
            loss(model, micro, recipe).backward()
            optimizer.step()
    with torch.device(default):
        optimizer.flush()
        optimizer.load_state_dict(optimizer.state_dict())
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ALL)
def test_a_default_device_of_the_user_s_changes_nothing(name):
    size = 1 if name == "async" else 2  # who pushes at its own speed ends elsewhere each time
    plain, others = (ThreadWorld(1, size).run(trained, name, default) for default in ("cpu", "meta"))
    assert all(identical(plain[0][key], other[key]) for other in others for key in other)


def in_process() -> dict[str, Tensor]:
    with torch.device("meta"):
        mesh = process_mesh(None, DEVICE, 20.0)
    return trained(mesh, "int4", "meta")


def test_nor_does_it_where_processes_talk(pool: ProcessPool):
    plain = ThreadWorld(1, 2).run(trained, "int4", "cpu")[0]
    assert all(identical(plain[key], other[key].to(DEVICE)) for other in pool.run(2, in_process) for key in other)
