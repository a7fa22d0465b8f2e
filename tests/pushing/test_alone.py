"""One worker that pushes to itself is plain Adam, to the bit."""

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from tests.device import DEVICE
from tests.pushing.world import among
from tests.wire.world import Odd

RULES = {
    "adamw": adamesh.AdamW,
    "adam": adamesh.Adam,
    "nadam": adamesh.NAdam,
    "sgd": adamesh.SGD,
    "adadelta": adamesh.Adadelta,
}


def trained(mesh: Mesh, sync, build, dtype, accumulate: bool, **options):
    model = Odd(dtype)
    plan = adamesh.Plan(mesh=mesh, sync=sync, bucket_mb=1e-3)
    optimizer = build(model.named_parameters(), lr=1e-2, plan=plan, **options)
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        optimizer.zero_grad()
        for _ in range(1 + accumulate):
            x = torch.randn(16, 37, generator=generator).to(DEVICE, dtype)
            (model(x, step % 3 == 1) ** 2).mean().backward()
        optimizer.step()
    optimizer.flush()
    return [p.detach().clone() for p in model.parameters()], optimizer.full_state_dict()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("accumulate", [False, True])
def test_one_worker_is_the_plain_rule_to_the_bit(name, dtype, accumulate):
    ((ours, state),) = among(1, trained, adamesh.Async(), RULES[name], dtype, accumulate)
    ((plain, plain_state),) = among(1, trained, adamesh.EveryStep(), RULES[name], dtype, accumulate)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    for key, entry in plain_state["state"].items():
        for kind, value in entry.items():
            assert torch.equal(torch.as_tensor(state["state"][key][kind]), torch.as_tensor(value)), (key, kind)


def test_one_worker_is_torchs_adamw_to_the_bit():
    def law(mesh):
        model = nn.Linear(37, 11)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view(p.shape))
        twin = nn.Linear(37, 11)
        twin.load_state_dict(model.state_dict())
        ours = adamesh.AdamW(model.parameters(), lr=1e-2, plan=adamesh.Plan(mesh=mesh, sync=adamesh.Async()))
        torchs = torch.optim.AdamW(twin.parameters(), lr=1e-2, fused=True)
        x = torch.linspace(-2, 2, 16 * 37).view(16, 37)
        for each, optimizer in ((model, ours), (twin, torchs)):
            for _ in range(10):
                optimizer.zero_grad()
                (each(x) ** 2).mean().backward()
                optimizer.step()
        return all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))

    assert among(1, law) == [True]


def test_gradients_may_be_clipped_by_hand_because_nothing_leaves_before_the_step():
    def law(mesh):
        p = nn.Parameter(torch.zeros(4))
        plan = adamesh.Plan(mesh=mesh, sync=adamesh.Async())
        optimizer = adamesh.SGD([p], lr=1.0, plan=plan)
        (p.sum() * 100).backward()
        torch.nn.utils.clip_grad_norm_([p], 1.0)
        optimizer.step()
        return p.detach()

    (values,) = among(1, law)
    assert torch.allclose(values, torch.full((4,), -0.5), atol=1e-5)
