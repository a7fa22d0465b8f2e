"""L-BFGS on the mean of all workers' closures is torch's on the whole batch."""

from typing import Any

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError, ConfigurationError, LayoutError, ParameterError, StepOutOfSync
from tests.parity.zoo import identical
from tests.tolerances import LBFGS

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(24, 5, generator=GENERATOR, dtype=torch.float64)
TARGETS = INPUTS.sin().sum(dim=1, keepdim=True)
SEARCHES: dict[str, dict[str, Any]] = {
    "fixed": {"lr": 0.3},
    "wolfe": {"line_search_fn": "strong_wolfe", "history_size": 4},
}


class Net(nn.Module):
    """With a parameter that nobody uses."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 7).double(), nn.Linear(7, 1).double()
        self.never = nn.Parameter(torch.ones(3))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 2)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x)))


def advance(model, optimizer, steps, rank=0, size=1):
    """The loss before each step."""
    x, y = INPUTS.chunk(size)[rank], TARGETS.chunk(size)[rank]

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    losses = [optimizer.step(closure) for _ in range(steps)]
    return [loss.item() if isinstance(loss, torch.Tensor) else loss for loss in losses]


def mine(mesh, model, **options):
    return adamesh.LBFGS(model.named_parameters(), **options, plan=adamesh.Plan(mesh=mesh))


def bits_agree(one, other):
    return all(identical(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("name", SEARCHES)
def test_any_number_of_workers_take_torchs_steps(name, size):
    twin = Net()
    expected = advance(twin, torch.optim.LBFGS(twin.parameters(), max_iter=8, **SEARCHES[name]), 4)

    def law(mesh):
        model = Net()
        optimizer = mine(mesh, model, max_iter=8, **SEARCHES[name])
        return model, advance(model, optimizer, 4, mesh.world.rank, size), optimizer.stats()

    results = ThreadWorld(1, size).run(law)
    first, losses, stats = results[0]
    assert all(bits_agree(model, first) and found == losses for model, found, _ in results)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) <= LBFGS[torch.float64] * expected[0]
    assert bits_agree(first, twin) or size > 1
    assert stats.state_bytes > 0
    assert (stats.bytes_up > 0) == (size > 1)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_checkpoint_goes_on_at_another_number_of_workers(name, tmp_path):
    def first(mesh):
        model = Net()
        optimizer = mine(mesh, model, max_iter=5, **SEARCHES[name])
        advance(model, optimizer, 2, mesh.world.rank, 3)
        adamesh.save(tmp_path, model, optimizer, at=2)
        return advance(model, optimizer, 2, mesh.world.rank, 3)

    def second(mesh):
        model = Net()
        optimizer = mine(mesh, model, max_iter=5, **SEARCHES[name])
        assert adamesh.load(tmp_path, model, optimizer) == {"at": 2}
        return advance(model, optimizer, 2, mesh.world.rank, mesh.world.size)

    expected = ThreadWorld(1, 3).run(first)[0]
    assert ThreadWorld(1, 3).run(second)[0] == expected
    for size in (1, 2):
        found = ThreadWorld(1, size).run(second)[0]
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= LBFGS[torch.float64] * expected[0]


def test_a_checkpoint_before_the_first_step_and_one_of_another_rule(tmp_path):
    model = Net()
    adamesh.save(tmp_path / "new", model, adamesh.LBFGS(model.parameters()))
    optimizer = adamesh.LBFGS(model.parameters())
    advance(model, optimizer, 1)
    adamesh.save(tmp_path / "one", model, optimizer)
    adamesh.load(tmp_path / "new", model, optimizer)
    assert optimizer.stats().step == 1
    assert not optimizer.state
    with pytest.raises(CheckpointError, match="n_iter"):
        adamesh.load(tmp_path / "one", model, adamesh.AdamW(model.parameters()))
    adam = adamesh.AdamW(model.parameters())
    advance(model, adam, 1)
    adamesh.save(tmp_path / "adam", model, adam)
    with pytest.raises(CheckpointError, match="not what L-BFGS keeps"):
        adamesh.load(tmp_path / "adam", model, optimizer)


def test_a_closure_that_fails_on_one_worker_undoes_the_step_on_all():
    def law(mesh):
        model = Net()
        optimizer = mine(mesh, model)
        calls = 0

        def closure():
            nonlocal calls
            calls += 1
            if calls == 3 and mesh.world.rank == 1:
                raise RuntimeError("no more data")
            optimizer.zero_grad()
            loss = (model(INPUTS) - TARGETS).square().mean()
            loss.backward()
            return loss

        with pytest.raises((StepOutOfSync, RuntimeError), match=r"worker\(s\) \[1\]|no more data"):
            optimizer.step(closure)
        assert bits_agree(model, Net())
        assert not optimizer.state
        return advance(model, optimizer, 1)

    assert len(set(map(tuple, ThreadWorld(1, 2).run(law)))) == 1


def test_workers_that_differ_are_told_apart():
    def parameters(mesh):
        model = Net()
        optimizer = mine(mesh, model)
        if mesh.world.rank == 1:
            with torch.no_grad():
                model.never.add_(1)
        with pytest.raises(ParameterError, match="worker 1 has other parameters"):
            advance(model, optimizer, 1)

    def settings(mesh):
        model = Net()
        optimizer = mine(mesh, model, lr=0.1 + 0.1 * mesh.world.rank)
        with pytest.raises(ConfigurationError, match="worker 1 has other hyper-parameters"):
            advance(model, optimizer, 1)

    def shapes(mesh):
        with pytest.raises(LayoutError, match="worker 1 and worker 0 have different parameters"):
            mine(mesh, nn.Linear(2, 1 + mesh.world.rank))

    for law in (parameters, settings, shapes):
        ThreadWorld(1, 2).run(law)


def test_there_is_one_group_and_a_closure():
    model = Net()
    optimizer = adamesh.LBFGS(model.parameters())
    with pytest.raises(ConfigurationError, match="one parameter group"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    with pytest.raises(ConfigurationError, match="one group"):
        adamesh.LBFGS([{"params": [p]} for p in model.parameters()])
    with pytest.raises(ConfigurationError, match="give it a closure"):
        optimizer.step()
