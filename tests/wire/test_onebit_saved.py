"""1-bit Adam is saved and goes on, before its second moments are frozen and after, at any number of workers."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError
from tests.tolerances import TRAJECTORY
from tests.wire.world import alike

F64 = torch.float64
BEFORE, AFTER, END = 15, 45, 54


class Pull(nn.Module):
    """Gradients that every worker has alike, and that are steady: it freezes between the updates 15 and 45."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.linspace(-1, 1, 300, dtype=F64))
        self.q = nn.Parameter(torch.linspace(-1, 1, 7, dtype=F64))

    def pull(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        for param in (self.p, self.q):
            noise = torch.randn(param.numel(), generator=generator, dtype=F64) / 10
            param.grad = 3 + noise


def build(mesh: Mesh, wire: adamesh.Wire | None = None) -> tuple[Pull, adamesh.OneBitAdam]:
    model = Pull()
    plan = adamesh.Plan(mesh=mesh, wire=wire or adamesh.Wire(), bucket_mb=1e-3)
    return model, adamesh.OneBitAdam(model.named_parameters(), lr=1e-2, betas=(0.9, 0.9), plan=plan)


def advance(model: Pull, optimizer: adamesh.OneBitAdam, steps: range) -> dict[str, Tensor]:
    for step in steps:
        model.pull(step)
        optimizer.step()
    return {name: param.detach().clone() for name, param in model.named_parameters()}


def saved(folder: Path, shape: tuple[int, int], stop: int):
    """Train, save, go on; what every worker has at the end, and when it froze."""

    def law(mesh: Mesh):
        model, optimizer = build(mesh)
        advance(model, optimizer, range(stop))
        adamesh.save(folder, model, optimizer)
        return advance(model, optimizer, range(stop, END)), optimizer.stats().frozen_after

    (values, after), *_ = ThreadWorld(*shape).run(law)
    assert after is not None
    assert BEFORE < after < AFTER
    return values, after


@pytest.mark.parametrize("stop", [BEFORE, AFTER])
@pytest.mark.parametrize(("shape", "others"), [((1, 2), [(1, 1), (1, 3)]), ((2, 1), [(3, 1), (2, 2)])], ids=str)
def test_it_freezes_where_it_would_have_and_ends_there_at_another_number_of_workers(shape, others, stop, tmp_path):
    values, after = saved(tmp_path, shape, stop)

    def law(mesh: Mesh):
        model, optimizer = build(mesh)
        adamesh.load(tmp_path, model, optimizer)
        return advance(model, optimizer, range(stop, END)), optimizer.stats().frozen_after

    for other in others:
        results = ThreadWorld(*other).run(law)
        assert {found for _, found in results} == {after}
        assert all(alike(results[0][0], found) for found, _ in results)
        # Every worker's gradient is the same, so that coding is, but for what is on its way when it is cut.
        assert all(torch.allclose(results[0][0][name], values[name], rtol=0, atol=2e-2) for name in values)


@pytest.mark.parametrize("stop", [BEFORE, AFTER])
@pytest.mark.parametrize("shape", [(1, 3), (2, 2)], ids=str)
def test_a_worker_s_own_state_dict_goes_on_to_the_bit(shape, stop):
    def law(mesh: Mesh) -> bool:
        model, optimizer = build(mesh)
        advance(model, optimizer, range(stop))
        fresh, loaded = build(mesh)
        advance(fresh, loaded, range(1))
        fresh.load_state_dict(model.state_dict())
        loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return alike(advance(fresh, loaded, range(stop, END)), advance(model, optimizer, range(stop, END)))

    assert all(ThreadWorld(*shape).run(law))


@pytest.mark.parametrize("stop", [BEFORE, AFTER])
def test_torchs_format_keeps_what_is_frozen(stop):
    def law(mesh: Mesh) -> tuple[int | None, int | None]:
        model, optimizer = build(mesh)
        advance(model, optimizer, range(stop))
        full = copy.deepcopy(optimizer.full_state_dict())
        fresh, loaded = build(mesh)
        fresh.load_state_dict(model.state_dict())
        loaded.load_full_state_dict(full or None)
        advance(model, optimizer, range(stop, END)), advance(fresh, loaded, range(stop, END))
        assert optimizer.state_dict()["state"]["p"]["frozen_steps"] == optimizer.stats().frozen_after
        assert loaded.state_dict()["state"]["p"]["frozen_steps"] == loaded.stats().frozen_after
        return optimizer.stats().frozen_after, loaded.stats().frozen_after

    found = {after for pair in ThreadWorld(1, 2).run(law) for after in pair}
    assert len(found) == 1
    assert None not in found


def test_what_sharded_workers_hold_back_is_what_replicas_start_from_and_the_other_way(tmp_path):
    """Residuals are in a gradient's units in both forms, so that one is folded into the other."""

    def held(optimizer: adamesh.OneBitAdam) -> dict[str, Tensor]:
        return {key: e[key.split("/")[0]].clone() for key, e in optimizer.state_dict()["residuals"].items()}

    def save(mesh: Mesh) -> dict[str, Tensor]:
        model, optimizer = build(mesh)
        advance(model, optimizer, range(AFTER))
        adamesh.save(tmp_path, model, optimizer)
        return held(optimizer)

    def load(mesh: Mesh) -> dict[str, Tensor]:
        model, optimizer = build(mesh)
        adamesh.load(tmp_path, model, optimizer)
        return held(optimizer)

    sharded = ThreadWorld(1, 2).run(save)
    mean = (sharded[0]["residual_up/p"] + sharded[1]["residual_up/p"]) / 2
    assert float(mean.abs().max()) > 1e-3
    for after in ThreadWorld(2, 1).run(load):
        assert torch.allclose(after["residual_across/p"], mean, rtol=0, atol=TRAJECTORY[F64])
        assert not after["residual_back/p"].any()
    replicas = ThreadWorld(2, 1).run(save)
    mean = (replicas[0]["residual_across/p"] + replicas[1]["residual_across/p"]) / 2
    mean += torch.cat([held["residual_back/p"] for held in replicas])
    for after in ThreadWorld(1, 2).run(load):
        assert torch.allclose(after["residual_up/p"], mean, rtol=0, atol=TRAJECTORY[F64])


def test_the_checkpoint_of_another_rule_is_refused(tmp_path):
    model = Pull()
    other = adamesh.AdamW(model.named_parameters())
    model.pull(0)
    other.step()
    adamesh.save(tmp_path, model, other)
    fresh, optimizer = build_alone()
    with pytest.raises(CheckpointError, match="saved state"):
        adamesh.load(tmp_path, fresh, optimizer)


def build_alone() -> tuple[Pull, adamesh.OneBitAdam]:
    model = Pull()
    return model, adamesh.OneBitAdam(model.named_parameters())
