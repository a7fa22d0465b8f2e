"""Checkpoints of workers that push: taken at rest, loaded at any number of workers, by any schedule."""

import pytest
import torch

import adamesh
from adamesh.comm.base import Mesh
from tests.pushing.world import Pusher, among

BEFORE, AFTER = [0, 1, 1, 2, 0], [2, 0, 1, 0]


def worker(mesh: Mesh, sync, up=None) -> Pusher:
    return Pusher(mesh, sync, up, build=adamesh.AdamW, lr=0.1)


def model(pusher: Pusher) -> torch.nn.Module:
    module = torch.nn.Module()
    module.param, module.other = pusher.param, pusher.other
    return module


def walk(pusher: Pusher, order, outstanding: int) -> None:
    """Turns with gradients of their own; with answers outstanding two turns may change places, so all are alike."""
    for number, rank in enumerate(order):
        pusher.turns([rank], 0.5 if outstanding else 0.5 + number)


@pytest.mark.parametrize("outstanding", [0, 1])
@pytest.mark.parametrize("up", [None, adamesh.Int8()], ids=str)
def test_a_resumed_run_goes_on_as_one_that_was_not_interrupted(tmp_path, outstanding, up):
    sync = adamesh.Async(staleness=4, outstanding=outstanding)

    def whole(mesh):
        pusher = worker(mesh, sync, up)
        walk(pusher, BEFORE, outstanding)
        adamesh.save(tmp_path / "c", model(pusher), pusher.optimizer)
        pusher.optimizer.serve()
        pusher.wait()
        walk(pusher, AFTER, outstanding)
        pusher.optimizer.flush()
        return pusher.values, pusher.optimizer.full_state_dict()

    def resumed(mesh):
        pusher = worker(mesh, sync, up)
        pusher.optimizer.flush()  # the service of the constructor's caller ends, as in a fresh process
        adamesh.load(tmp_path / "c", model(pusher), pusher.optimizer)
        pusher.optimizer.serve()
        pusher.wait()
        walk(pusher, AFTER, outstanding)
        pusher.optimizer.flush()
        return pusher.values, pusher.optimizer.full_state_dict()

    (values, state), *_ = among(3, whole)
    (again, state_again), *_ = among(3, resumed)
    assert torch.equal(values, again)
    for key, entry in state["state"].items():
        for name, value in entry.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(state_again["state"][key][name]))


def test_a_push_that_is_outstanding_is_in_the_checkpoint(tmp_path):
    def saved(mesh):
        pusher = Pusher(mesh, adamesh.Async(staleness=10, outstanding=2))
        for _ in range(3):
            pusher.step(1.0)
        adamesh.save(tmp_path / "c", model(pusher), pusher.optimizer)

    def loaded(mesh):
        pusher = Pusher(mesh, adamesh.Async())
        pusher.optimizer.flush()
        adamesh.load(tmp_path / "c", model(pusher), pusher.optimizer)
        return pusher.values

    among(2, saved)
    for values in among(2, loaded):
        assert bool((values == -6.0).all())


@pytest.mark.parametrize("sync", [adamesh.EveryStep(), adamesh.Async()], ids=str)
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_it_loads_at_any_number_of_workers_and_under_other_schedules(tmp_path, sync, num_ranks):
    def saved(mesh):
        pusher = worker(mesh, adamesh.Async(staleness=4))
        walk(pusher, BEFORE, 0)
        adamesh.save(tmp_path / "c", model(pusher), pusher.optimizer)
        return pusher.values, pusher.optimizer.full_state_dict()

    def loaded(mesh):
        pusher = worker(mesh, sync)
        pusher.optimizer.flush()
        adamesh.load(tmp_path / "c", model(pusher), pusher.optimizer)
        return pusher.values, pusher.optimizer.full_state_dict()

    (values, state), *_ = among(3, saved)
    (again, state_again), *_ = among(num_ranks, loaded)
    assert torch.equal(values, again)
    for key, entry in state["state"].items():
        assert torch.equal(entry["exp_avg"], state_again["state"][key]["exp_avg"])
        assert float(entry["step"]) == float(state_again["state"][key]["step"]) == len(BEFORE)


def test_what_feedback_held_back_is_in_the_checkpoint_as_one_mean(tmp_path):
    up = adamesh.Feedback(adamesh.Sign())

    def residual(pusher):
        parts = pusher.optimizer.state_dict()["residuals"]
        return parts["residual_up/param"]["residual_up"].clone()

    def saved(mesh):
        pusher = Pusher(mesh, adamesh.Async(), up)
        pusher.param.register_hook(lambda grad: grad * torch.linspace(0.5, 1.5, len(grad), device=grad.device))
        pusher.turns([0, 1])
        adamesh.save(tmp_path / "c", model(pusher), pusher.optimizer)
        return residual(pusher)

    def loaded(mesh):
        pusher = Pusher(mesh, adamesh.Async(), up)
        pusher.optimizer.flush()
        adamesh.load(tmp_path / "c", model(pusher), pusher.optimizer)
        return residual(pusher)

    first, second = among(2, saved)
    for mean in among(2, loaded):
        assert torch.allclose(mean, (first + second) / 2)
    assert first.abs().max() > 0


def test_a_rejected_push_changes_no_residual():
    up = adamesh.Feedback(adamesh.Int4())

    def law(mesh):
        pusher = Pusher(mesh, adamesh.Async(staleness=0), up)
        pusher.param.register_hook(lambda grad: grad * torch.linspace(0.5, 1.5, len(grad), device=grad.device))
        pusher.turns([0, 1])
        kept = pusher.optimizer.engine.buckets[0].passages[0].residuals["up"][0]
        before = kept.clone()
        if mesh.world.rank == 1:
            pusher.backward(1.0)
        pusher.turns([0])
        if mesh.world.rank == 1:
            pusher.step()
            assert pusher.pushes.accepted_share == 0.0
            assert torch.equal(kept, before)
            pusher.step(1.0)
            assert not torch.equal(kept, before)
        pusher.optimizer.flush()

    among(2, law)
