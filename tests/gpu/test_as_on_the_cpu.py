"""What a plan does on a GPU is what it does on the CPU: two workers as threads, in double precision."""

from typing import Any

import pytest
import torch
from torch import Tensor

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from tests.parity.recommender import Recipe as TableRecipe
from tests.parity.recommender import Recommender
from tests.parity.zoo import Recipe as ZooRecipe
from tests.parity.zoo import Zoo, loss, micro_batches
from tests.plans import PLANS
from tests.wire.world import CODECS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
STEPS = 5  # later on, what rounds otherwise may be just within or without the largest elements
DEVICES = ("cuda", "cpu")
SHAPES = {"exact": (2, 2)}


def agree(there: list[dict[str, Tensor]], here: list[dict[str, Tensor]]) -> None:
    """All workers' parameters are the same but for how the two devices round."""
    for ours, theirs in zip(there, here, strict=True):
        for key in ours:
            assert torch.allclose(ours[key], theirs[key], rtol=1e-9, atol=1e-11), key


def on(device: str, plan: dict[str, Any], shape: tuple[int, int]) -> list[dict[str, Tensor]]:
    recipe = ZooRecipe()

    def live(mesh: Mesh) -> dict[str, Tensor]:
        model = Zoo(0).to(device, recipe.dtype)
        optimizer = recipe.build(adamesh, model, plan=adamesh.Plan(mesh=mesh, bucket_mb=1e-3, **plan))
        for step in range(STEPS):
            optimizer.zero_grad()
            micro = micro_batches(recipe, step, mesh.world.rank, mesh.world.size)[0]
            loss(model, tuple(column.to(device) for column in micro), recipe).backward()
            optimizer.step()
        optimizer.flush()
        return {name: p.detach().cpu() for name, p in model.named_parameters()}

    return ThreadWorld(*shape).run(live)


@pytest.fixture(autouse=True, scope="module")
def _linear_algebra_is_loaded() -> None:
    """torch loads it on first use, and not by several threads at once; workers are processes."""
    torch.linalg.qr(torch.eye(2, device="cuda"))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_does_the_same(name):
    agree(*(on(device, PLANS[name], SHAPES.get(name, (1, 2))) for device in DEVICES))


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_writes_the_same_bytes(name):
    codec = CODECS[name]
    x_RN = torch.randn(3, 40 * codec.grain, generator=torch.Generator().manual_seed(0)) ** 3
    payloads, found = {}, {}
    for device in DEVICES:
        payload_RB = torch.zeros(3, codec.payload_bytes(x_RN.shape[1]), dtype=torch.uint8, device=device)
        out_RN = torch.zeros_like(x_RN, device=device)
        codec.encode(x_RN.to(device), payload_RB, adamesh.codecs.base.Stream(1, 8))
        codec.decode(payload_RB, out_RN)
        payloads[device], found[device] = payload_RB.cpu(), out_RN.cpu()
    if name != "topk":  # the order of what is kept is the device's
        assert torch.equal(payloads["cpu"], payloads["cuda"])
    assert torch.equal(found["cpu"], found["cuda"])


@pytest.mark.parametrize("sparse", ["decayed", "lazy", "exact"])
def test_rows_of_tables_do_the_same(sparse):
    def live(mesh: Mesh, device: str) -> dict[str, Tensor]:
        model = Recommender().to(device)
        optimizer = TableRecipe(sparse).optimizer(model, mesh)
        for step in range(STEPS):
            ids = torch.tensor([step % 5, 7, (mesh.world.rank + 2 * step) % 23], device=device)
            bags = torch.tensor([[0, 1], [2, step % 7], [3, 3]], device=device)
            optimizer.zero_grad()
            (model(ids, bags) - 1).square().sum().backward()
            optimizer.step()
        optimizer.flush()
        return {name: p.detach().cpu() for name, p in model.named_parameters()}

    agree(*(ThreadWorld(1, 2).run(live, device) for device in DEVICES))
