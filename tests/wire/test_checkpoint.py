"""What codecs have held back is saved once, as its mean, and loads at any number of workers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError
from tests.wire.world import CODECS, Worker, alike, both_ways

INT4 = both_ways(CODECS["int4"])
SHAPES = [(1, 1), (1, 2), (1, 3), (2, 2), (2, 1)]
STEPS = 4


def saved(folder: Path, shape: tuple[int, int], wire: adamesh.Wire = INT4) -> dict[str, Tensor]:
    """Train, save, and give the mean residual by parameter, as the definition has it."""

    def law(mesh: Mesh):
        worker = Worker(mesh, wire, dtype=torch.float64).train(range(STEPS))
        adamesh.save(folder, worker.model, worker.optimizer)
        return worker.residuals

    held = ThreadWorld(*shape).run(law)
    share = {"up": 1 / len(held), "across": 1 / shape[0], "back": 1.0}
    names = dict.fromkeys(name for _, name in held[0])
    return {name: sum(share[kind] * one[kind, name] for one in held for kind in share) for name in names}


def loaded(folder: Path, shape: tuple[int, int], wire: adamesh.Wire = INT4) -> list[dict[tuple[str, str], Tensor]]:
    """Every worker's residuals after loading into an optimizer that had some of its own."""

    def law(mesh: Mesh):
        worker = Worker(mesh, wire, dtype=torch.float64).train(range(1))
        adamesh.load(folder, worker.model, worker.optimizer)
        held = worker.residuals
        worker.train(range(STEPS, STEPS + 2))
        return held, worker.values

    results = ThreadWorld(*shape).run(law)
    assert all(alike(results[0][1], values) for _, values in results)
    return [held for held, _ in results]


@pytest.mark.parametrize("before", SHAPES, ids=str)
def test_every_worker_starts_from_the_mean_residual_of_the_workers_that_saved(before, tmp_path):
    mean = saved(tmp_path / "c", before)
    assert float(mean["matrix"].abs().max()) > 1e-3
    for after in SHAPES if before == (2, 2) else [(1, 2), (2, 1)]:
        for held in loaded(tmp_path / "c", after):
            for name, expected in mean.items():
                assert torch.allclose(held["up", name], expected, rtol=0, atol=1e-15)
                assert not held["across", name].any()
                assert not held["back", name].any()


def test_a_plan_with_feedback_between_islands_only_takes_it_there(tmp_path):
    mean = saved(tmp_path / "c", (2, 2))
    wire = adamesh.Wire(across=adamesh.Feedback(adamesh.Int4()))
    island = loaded(tmp_path / "c", (2, 2), wire)[:2]
    for name, expected in mean.items():
        slices = torch.stack([held["across", name] for held in island]).sum(0)
        assert torch.allclose(slices, expected, rtol=0, atol=1e-15)


def test_a_plan_without_feedback_says_that_it_drops_the_residual(tmp_path):
    saved(tmp_path / "c", (1, 2))
    with pytest.warns(UserWarning, match="have held back of the gradients.*is dropped"):
        loaded(tmp_path / "c", (1, 1), adamesh.Wire(up=adamesh.Int8()))


def test_a_checkpoint_without_residuals_starts_them_from_zero(tmp_path):
    saved(tmp_path / "c", (1, 2), adamesh.Wire())
    for held in loaded(tmp_path / "c", (1, 2)):
        assert not any(residual.any() for residual in held.values())


def test_while_a_warm_up_lasts_a_residual_is_not_taken(tmp_path):
    saved(tmp_path / "c", (1, 2))
    wire = adamesh.Wire(up=adamesh.Warmup(adamesh.Feedback(adamesh.Int4()), STEPS + 1))
    for held in loaded(tmp_path / "c", (1, 2), wire):
        assert not any(residual.any() for residual in held.values())


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)], ids=str)
def test_a_worker_s_own_state_dict_goes_on_to_the_bit(shape):
    def law(mesh: Mesh):
        worker = Worker(mesh, INT4).train(range(3))
        fresh = Worker(mesh, INT4).train(range(1))
        fresh.model.load_state_dict(worker.model.state_dict())
        fresh.optimizer.load_state_dict(worker.optimizer.state_dict())
        assert alike(fresh.residuals, worker.residuals)
        fresh.train(range(3, 6)), worker.train(range(3, 6))
        return alike(fresh.values, worker.values) and alike(fresh.residuals, worker.residuals)

    assert all(ThreadWorld(*shape).run(law))


def test_a_worker_s_own_state_dict_does_not_load_at_another_number_of_workers():
    states = ThreadWorld(1, 2).run(lambda mesh: Worker(mesh, INT4).train(range(2)).optimizer.state_dict())
    with pytest.raises(CheckpointError, match="missing from the saved state"):
        ThreadWorld(1, 1).run(lambda mesh: Worker(mesh, INT4).optimizer.load_state_dict(states[0]))


def test_saving_between_backward_and_step_changes_nothing(tmp_path):
    def law(mesh: Mesh, saves: bool):
        worker = Worker(mesh, INT4).train(range(2))
        worker.optimizer.zero_grad()
        worker.backward(2)
        if saves:
            adamesh.save(tmp_path / "c", worker.model, worker.optimizer)
        worker.optimizer.step()
        return worker.values

    plain, saving = (ThreadWorld(2, 2).run(law, saves)[0] for saves in (False, True))
    assert alike(plain, saving)


def test_masters_of_a_coded_way_down_load_at_any_number_of_workers(tmp_path):
    def save(mesh: Mesh) -> None:
        worker = Worker(mesh, INT4).train(range(STEPS))
        adamesh.save(tmp_path / "c", worker.model, worker.optimizer)

    def load(mesh: Mesh):
        worker = Worker(mesh, INT4)
        adamesh.load(tmp_path / "c", worker.model, worker.optimizer)
        state = worker.optimizer.state_dict()["state"]
        return {name: (entry["start"], entry["master"]) for name, entry in state.items() if "master" in entry}

    def masters(shape: tuple[int, int]) -> dict[str, Tensor]:
        parts = ThreadWorld(*shape).run(load)
        names = dict.fromkeys(name for part in parts for name in part)
        return {
            n: torch.cat([t for _, t in sorted((p[n] for p in parts if n in p), key=lambda r: r[0])]) for n in names
        }

    ThreadWorld(1, 2).run(save)
    assert alike(masters((1, 1)), masters((1, 3)))
