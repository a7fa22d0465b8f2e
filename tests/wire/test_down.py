"""Slices come DOWN as coded differences; the master is the owner's, and what is missing is in the next difference."""

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from tests.wire.world import CODECS, Worker, alike

INT4 = adamesh.Wire(down=adamesh.Int4())
SIGN_INTO_BF16 = ("sign", torch.bfloat16)


def masters(optimizer: adamesh.MeshOptimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {name: entry["master"] for name, entry in state.items() if "master" in entry}


def test_the_masters_of_the_first_step_are_those_of_an_exact_run():
    def law(mesh: Mesh, wire: adamesh.Wire):
        worker = Worker(mesh, wire).train(range(1))
        return worker.values, masters(worker.optimizer), worker.optimizer.state_dict()["state"]

    exact, coded = (ThreadWorld(1, 2).run(law, wire) for wire in (adamesh.Wire(), INT4))
    for rank in range(2):
        for name, master in coded[rank][1].items():
            entry = coded[rank][2][name]
            assert torch.equal(master, exact[rank][0][name].view(-1)[entry["start"] : entry["stop"]])
    assert not alike(exact[0][0], coded[0][0])


# Not sign into bfloat16: a step of a block's mean may be less than what bfloat16 can hold, and is rounded away.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in CODECS for dtype in (torch.float32, torch.bfloat16) if (name, dtype) != SIGN_INTO_BF16],
    ids=str,
)
def test_parameters_reach_their_masters_when_these_stand_still(name, dtype):
    """Nothing is lost on the way: with a learning rate of zero, differences are sent until there is none."""

    def law(mesh: Mesh) -> bool:
        p = nn.Parameter(torch.linspace(-1, 1, 200, dtype=dtype))
        plan = adamesh.Plan(mesh=mesh, wire=adamesh.Wire(down=CODECS[name]))
        optimizer = adamesh.AdamW([p], lr=0.3, weight_decay=0.0, plan=plan)
        # Of a block that is mostly padding, what is scaled by the mean of all is sent in small pieces.
        for step in range({"sign": 140, "int2": 80}.get(name, 40)):
            p.grad = torch.ones_like(p)
            optimizer.param_groups[0]["lr"] = 0.3 if step < 2 else 0.0
            optimizer.step()
        entry = optimizer.state_dict()["state"]["0.0"]
        if "master" in entry:
            master, view = entry["master"], p.detach()[entry["start"] : entry["stop"]]
            # bfloat16: a unit in the last place of numbers between 1 and 2.
            assert float((master - view).abs().max()) <= (1e-6 if dtype == torch.float32 else 2**-7)
        return "master" in entry

    assert any(ThreadWorld(1, 2).run(law))


def test_a_parameter_that_nobody_uses_does_not_move_and_its_version_does_not_either():
    def law(mesh: Mesh) -> None:
        worker = Worker(mesh, INT4).train(range(2))  # `rare` was used in step 1
        before, version = worker.values["rare"], worker.model.rare._version
        worker.train(range(2, 4))
        assert torch.equal(worker.values["rare"], before)
        assert worker.model.rare._version == version
        worker.train(range(4, 5))
        assert not torch.equal(worker.values["rare"], before)

    ThreadWorld(1, 2).run(law)


def test_a_parameter_written_on_all_workers_becomes_the_master():
    def law(mesh: Mesh):
        worker = Worker(mesh, INT4).train(range(2))
        with torch.no_grad():
            worker.model.bias.fill_(5.0)
        worker.optimizer.zero_grad()
        worker.model.bias.grad = torch.zeros_like(worker.model.bias)
        worker.optimizer.param_groups[0]["lr"] = 0.0
        worker.optimizer.step()
        assert worker.model.bias.tolist() == [5.0] * 11
        return worker.values, masters(worker.optimizer)

    (first, own), (second, others) = ThreadWorld(1, 2).run(law)
    assert alike(first, second)
    assert torch.cat([held["bias"] for held in (own, others) if "bias" in held]).tolist() == [5.0] * 11


def test_a_frozen_parameter_that_thaws_comes_down_coded():
    def law(mesh: Mesh):
        p, frozen = (nn.Parameter(torch.linspace(-1, 1, 100)) for _ in range(2))
        frozen.requires_grad_(False)
        optimizer = adamesh.AdamW([p, frozen], plan=adamesh.Plan(mesh=mesh, wire=INT4))
        for step in range(3):
            optimizer.zero_grad()
            frozen.requires_grad_(step > 0)
            ((p + frozen) ** 2).sum().backward()
            optimizer.step()
        return {"p": p.detach().clone(), "frozen": frozen.detach().clone()}

    first, second = ThreadWorld(1, 2).run(law)
    assert alike(first, second)
    assert not torch.equal(first["frozen"], torch.linspace(-1, 1, 100))


def test_a_parameter_that_does_not_lie_in_its_bucket_gets_the_same_values():
    def law(mesh: Mesh, memory_format: torch.memory_format):
        values = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(2, 3, 4, 5)
        p = nn.Parameter(values.contiguous(memory_format=memory_format))
        optimizer = adamesh.AdamW([p], plan=adamesh.Plan(mesh=mesh, wire=INT4))
        for step in range(3):
            optimizer.zero_grad()
            ((p - step) ** 2).sum().backward()
            optimizer.step()
        return {"p": p.detach().contiguous()}

    strided, plain = (ThreadWorld(1, 2).run(law, f) for f in (torch.channels_last, torch.contiguous_format))
    assert all(alike(strided[0], other) for other in (strided[1], *plain))


def test_torch_s_own_format_holds_the_masters_and_loads_them(tmp_path):
    def law(mesh: Mesh):
        worker = Worker(mesh, INT4).train(range(3))
        full = worker.optimizer.full_state_dict()
        fresh = Worker(mesh, INT4)
        fresh.model.load_state_dict(worker.model.state_dict())
        fresh.optimizer.load_full_state_dict(full)
        return worker.train(range(3, 5)).values, fresh.train(range(3, 5)).values

    for went_on, loaded in ThreadWorld(1, 2).run(law):
        assert alike(went_on, loaded)
