"""Save at one world size, go on at another: the trajectory is that of a run that never stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.comm.threads import ThreadWorld
from tests.checkpoint.trainee import ALL_IN_ONE_BUCKET, Recipe, Snapshot, Trainee, Whole, trained, whole
from tests.process_pool import ProcessPool
from tests.tolerances import TRAJECTORY

SAVED_AT, STOP, END = (1, 4), 4, 8
SHAPES = [(1, 1), (1, 2), (1, 3), (1, 6), (2, 1), (2, 2), (3, 1), (2, 3), (3, 2)]
RECIPES = {
    "fp64": Recipe(),
    "fp32-amsgrad": Recipe(torch.float32, amsgrad=True),
    "bf16-masters": Recipe(torch.bfloat16, amsgrad=True),
}


def shape_id(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture(scope="module")
def folder(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "at-4"
    trained(SAVED_AT, range(STOP), recipe, save=folder)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(recipe: Recipe) -> Whole:
    return trained(SAVED_AT, range(END), recipe)


@pytest.mark.parametrize("shape", [SAVED_AT, *SHAPES], ids=shape_id)
def test_what_is_loaded_is_what_was_saved_to_the_bit(recipe, folder, shape):
    saved = trained(SAVED_AT, range(STOP), recipe)
    assert trained(shape, range(0), recipe, load=folder) == saved
    assert trained(shape, range(0), replace(recipe, bucket_mb=ALL_IN_ONE_BUCKET), load=folder) == saved


def test_going_on_at_the_same_world_size_is_as_if_never_stopped_to_the_bit(recipe, folder, uninterrupted):
    assert trained(SAVED_AT, range(STOP, END), recipe, load=folder) == uninterrupted


@pytest.mark.parametrize("shape", SHAPES, ids=shape_id)
def test_going_on_at_another_world_size_is_the_same_but_for_rounding(recipe, folder, uninterrupted, shape):
    resumed = trained(shape, range(STOP, END), recipe, load=folder)
    assert resumed.distance(uninterrupted) <= TRAJECTORY[recipe.dtype]


def test_a_run_that_stops_after_every_step_and_changes_its_size_takes_the_same_path(tmp_path, recipe, uninterrupted):
    trained((1, 1), range(1), recipe, save=tmp_path / "c")
    for step in range(1, END):
        trained(SHAPES[step % len(SHAPES)], range(step, step + 1), recipe, load=tmp_path / "c", save=tmp_path / "c")
    resumed = trained((1, 2), range(0), recipe, load=tmp_path / "c")
    assert resumed.distance(uninterrupted) <= TRAJECTORY[recipe.dtype]


def test_buckets_of_another_size_find_their_state(recipe, folder, uninterrupted):
    coarse = replace(recipe, bucket_mb=ALL_IN_ONE_BUCKET)
    resumed = trained(SAVED_AT, range(STOP, END), coarse, load=folder)
    assert resumed.distance(uninterrupted) <= TRAJECTORY[recipe.dtype]


def test_parameters_no_gradient_ever_reached_come_back_without_steps_and_the_next_use_is_their_first(folder, recipe):
    def live(mesh: Mesh) -> dict[str, int]:
        trainee = Trainee(mesh, recipe, seed=99).load(folder)
        trainee.model.get_submodule("frozen").requires_grad_(True)
        trainee.train(range(STOP, END))
        return {name: entry["step"] for name, entry in trainee.optimizer.state_dict()["state"].items()}

    counts = ThreadWorld(1, 3).run(live)[2]
    assert counts["first.weight"] == END
    assert (counts["odd_steps"], counts["frozen.weight"], counts["never"]) == (END // 2, END - STOP, 0)


def test_a_parameter_that_was_unfrozen_before_the_save_has_its_state_afterwards(tmp_path, recipe):
    def live(mesh: Mesh, folder: Path, steps: range, load: bool) -> Snapshot:
        trainee = Trainee(mesh, recipe, seed=99 if load else 0)
        if load:
            trainee.load(folder)
        trainee.model.get_submodule("frozen").requires_grad_(True)
        return trainee.train(steps).save(folder).snapshot()

    world = ThreadWorld(1, 3)
    uninterrupted = whole(world.run(live, tmp_path / "a", range(4), False))
    world.run(live, tmp_path / "b", range(2), False)
    assert whole(world.run(live, tmp_path / "b", range(2, 4), True)) == uninterrupted


def test_the_learning_rate_a_scheduler_left_is_loaded_into_numbers_and_into_tensors(tmp_path):
    def save(mesh: Mesh) -> None:
        trainee = Trainee(mesh)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(trainee.optimizer, 0.5)
        trainee.train(range(1))
        scheduler.step()
        trainee.save(tmp_path / "c", scheduler=scheduler.state_dict())

    def load(mesh: Mesh) -> list[object]:
        trainee = Trainee(mesh)
        tensor_lr = trainee.optimizer.param_groups[0]["lr"] = torch.tensor(7.0, dtype=torch.float64)
        extra = adamesh.load(tmp_path / "c", trainee.model, trainee.optimizer)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(trainee.optimizer, 0.5)
        scheduler.load_state_dict(extra["scheduler"])
        return [tensor_lr.item(), trainee.optimizer.param_groups[1]["lr"], scheduler.last_epoch]

    ThreadWorld(1, 2).run(save)
    assert ThreadWorld(1, 1).run(load) == [[0.005, 0.0015, 1]]


def in_process(shape: tuple[int, int], steps: range, recipe: Recipe, load: Path | None, save: Path | None) -> Snapshot:
    device_mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
    trainee = Trainee(process_mesh(device_mesh, torch.device("cpu"), 20.0), recipe, seed=99 if load else 0)
    if load:
        trainee.load(load)
    trainee.train(steps)
    if save:
        trainee.save(save)
    return trainee.snapshot()


def test_real_processes_go_on_where_four_others_stopped(pool: ProcessPool, tmp_path, recipe, uninterrupted):
    folder = tmp_path / "c"
    pool.run(4, in_process, SAVED_AT, range(STOP), recipe, None, folder)
    for shape in [(1, 2), (1, 3), (2, 2)]:
        resumed = whole(pool.run(shape[0] * shape[1], in_process, shape, range(STOP, END), recipe, folder, None))
        assert resumed.distance(uninterrupted) <= TRAJECTORY[recipe.dtype], shape
    assert whole(pool.run(4, in_process, SAVED_AT, range(STOP, END), recipe, folder, None)) == uninterrupted
