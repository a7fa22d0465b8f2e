"""Hyper-parameters that change after the optimizer was built."""

import pytest
import torch

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import ConfigurationError


def test_a_bad_value_on_one_rank_stops_the_step_on_all_and_changes_nothing() -> None:
    def train(mesh: Mesh) -> tuple[str, bool]:
        model = torch.nn.Linear(3, 2)
        optimizer = adamesh.AdamW(model.parameters(), plan=adamesh.Plan(mesh=mesh))
        before = model.weight.detach().clone()
        model(torch.ones(1, 3)).sum().backward()
        if mesh.world.rank == 1:
            optimizer.param_groups[0]["lr"] = -1.0
        with pytest.raises(ConfigurationError) as error:
            optimizer.step()
        unchanged = torch.equal(before, model.weight)
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        assert not torch.equal(before, model.weight)
        return str(error.value), unchanged

    messages, unchanged = zip(*ThreadWorld(1, 2).run(train), strict=True)
    assert all(unchanged)
    assert all("on worker 1: lr=-1.0 is out of range" in message for message in messages)


@pytest.mark.parametrize("tensor", [False, True], ids=["float", "tensor"])
def test_different_learning_rates_on_ranks_are_refused_on_all_and_nothing_is_changed(tensor: bool) -> None:
    def train(mesh: Mesh) -> str:
        model = torch.nn.Linear(3, 2)
        lr = 0.5 ** (2 + mesh.world.rank)
        optimizer = adamesh.AdamW(
            model.parameters(), lr=torch.tensor(lr) if tensor else lr, plan=adamesh.Plan(mesh=mesh)
        )
        before = model.weight.detach().clone()
        model(torch.ones(1, 3)).sum().backward()
        with pytest.raises(ConfigurationError) as error:
            optimizer.step()
        assert torch.equal(before, model.weight)
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        return str(error.value)

    for message in ThreadWorld(2, 1).run(train):
        assert "worker 1 has hyper-parameters group 0: {'lr': 0.125" in message
        assert "and worker 0 group 0: {'lr': 0.25" in message
