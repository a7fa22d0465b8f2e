"""A checkpoint that does not fit, or cannot be read, is one clear error on all workers and changes nothing."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError
from tests.checkpoint.trainee import Net, Recipe, Snapshot, Trainee, trained

SHAPE = (1, 3)


def refusals(shape: tuple[int, int], build: Callable[[Mesh], Trainee], folder: Path) -> list[str]:
    """What each worker is told; none may have changed, and all must be able to go on."""

    def live(mesh: Mesh) -> str:
        trainee = build(mesh)
        before = trainee.snapshot()
        with pytest.raises(CheckpointError) as caught:
            trainee.load(folder)
        assert trainee.snapshot() == before
        assert not any(bucket.awake for bucket in trainee.optimizer.engine.buckets if bucket.place.dormant)
        trainee.train(range(1))
        return str(caught.value)

    return ThreadWorld(*shape).run(live)


class Wider(Net):
    def __init__(self) -> None:
        super().__init__(width=12)


class Longer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Parameter(torch.zeros(3))


class Shorter(Net):
    def __init__(self) -> None:
        super().__init__()
        del self.never


class OneGroup(Trainee):
    """A trainee whose optimizer has all parameters, in one group."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        plan = adamesh.Plan(mesh=mesh, bucket_mb=self.recipe.bucket_mb)
        self.optimizer = adamesh.AdamW(self.model.named_parameters(), plan=plan)


class FewerParameters(Trainee):
    """A trainee whose optimizer has only some of the model's parameters."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        plan = adamesh.Plan(mesh=mesh, bucket_mb=self.recipe.bucket_mb)
        self.optimizer = adamesh.AdamW(self.model.get_submodule("first").named_parameters(), plan=plan)


MISFITS: Mapping[str, tuple[Callable[[Mesh], Trainee], str]] = {
    "wider": (lambda mesh: Trainee(mesh, model=Wider()), r"'first.weight' has shape \(11, 6\) in .* and \(12, 6\)"),
    "longer": (lambda mesh: Trainee(mesh, model=Longer()), r"1 of this model's tensors are not in it \(\['more'\]\)"),
    "shorter": (lambda mesh: Trainee(mesh, model=Shorter()), r"1 of its own are unknown here \(\['never'\]\)"),
    "one group": (OneGroup, "build it with the same groups first"),
    "fewer parameters": (FewerParameters, "of its own are unknown here"),
    "amsgrad": (lambda mesh: Trainee(mesh, Recipe(amsgrad=True)), r"built with the same options \(amsgrad, for one\)"),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("shape", [(1, 1), SHAPE, (2, 2)], ids=str)
def test_a_checkpoint_of_something_else_changes_nothing(tmp_path, misfit, shape):
    build, message = MISFITS[misfit]
    trained((1, 2), range(2), save=tmp_path / "c")
    for said in refusals(shape, build, tmp_path / "c"):
        assert re.search(message, said), said


def test_amsgrad_s_state_is_not_dropped_silently(tmp_path):
    trained((1, 2), range(2), Recipe(amsgrad=True), save=tmp_path / "c")
    for said in refusals(SHAPE, Trainee, tmp_path / "c"):
        assert re.search("'max_exp_avg_sq'.*amsgrad, for one", said), said


def test_a_model_of_another_precision_takes_the_values_rounded(tmp_path):
    saved = trained((1, 2), range(2), save=tmp_path / "c")
    loaded = trained((1, 3), range(0), Recipe(torch.float32), load=tmp_path / "c")
    assert torch.equal(loaded.model["first.weight"], saved.model["first.weight"].float())


WHERE: Mapping[str, tuple[str, str]] = {
    "nowhere": ("nowhere", "there is no checkpoint folder"),
    "in an empty folder": ("empty", "holds no manifest.json: no checkpoint was completed there"),
    "in a file": ("file", "there is no checkpoint folder"),
    "under a name no disk takes": ("x" * 5000, "cannot be read .*too long"),
}


@pytest.mark.parametrize("where", WHERE)
def test_where_there_is_no_checkpoint_every_worker_is_told_so(tmp_path, where):
    name, message = WHERE[where]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("not a folder")
    for said in refusals(SHAPE, Trainee, tmp_path / name):
        assert re.search(message, said), said


def test_a_folder_that_one_worker_does_not_see_is_an_error_on_all(tmp_path):
    trained((1, 2), range(1), save=tmp_path / "c")

    def live(mesh: Mesh) -> str:
        trainee = Trainee(mesh)
        before = trainee.snapshot()
        with pytest.raises(CheckpointError) as caught:
            trainee.load(tmp_path / ("c" if mesh.world.rank else "elsewhere"))
        assert trainee.snapshot() == before
        return str(caught.value)

    for said in ThreadWorld(*SHAPE).run(live):
        assert re.search("no checkpoint folder .*elsewhere", said), said


def test_workers_that_find_different_checkpoints_are_all_told_so(tmp_path):
    trained((1, 2), range(1), save=tmp_path / "0")
    trained((1, 2), range(2), save=tmp_path / "1")

    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh)
        before = trainee.snapshot()
        with pytest.raises(CheckpointError, match="worker 1 found another checkpoint than worker 0"):
            trainee.load(tmp_path / str(mesh.world.rank))
        assert trainee.snapshot() == before

    ThreadWorld(1, 2).run(live)


# --- state_dict() and load_state_dict(), which are local ----------------------------------------------------


def restored(mesh: Mesh, recipe: Recipe) -> tuple[Snapshot, Snapshot]:
    """An uninterrupted run, and one that was put together from the parts of its first half."""
    trainee = Trainee(mesh, recipe).train(range(3))
    part = trainee.snapshot()
    other = Trainee(mesh, recipe, seed=99)
    other.model.load_state_dict(part.model)
    other.optimizer.load_state_dict(part.optimizer)
    assert other.snapshot() == part
    return trainee.train(range(3, 6)).snapshot(), other.train(range(3, 6)).snapshot()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 2)], ids=str)
def test_a_worker_s_own_part_goes_on_to_the_bit_at_the_same_world_size(shape, dtype):
    for uninterrupted, resumed in ThreadWorld(*shape).run(restored, Recipe(dtype, amsgrad=True)):
        assert resumed == uninterrupted


def test_a_part_survives_torch_save_without_code_being_run(tmp_path):
    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh).train(range(2))
        file = tmp_path / f"{mesh.world.rank}.pt"
        torch.save(trainee.optimizer.state_dict(), file)
        before = trainee.snapshot()
        trainee.optimizer.load_state_dict(torch.load(file, weights_only=True))
        assert trainee.snapshot() == before

    ThreadWorld(1, 2).run(live)


def broken(part: Mapping[str, Any], how: str) -> Mapping[str, Any]:
    state = part["state"]
    if how == "torch's":
        return {"state": {0: {}}, "param_groups": []}
    if how == "without a parameter":
        del state["first.weight"]
    elif how == "without elements":
        state["first.weight"]["start"] += 1
    elif how == "without a tensor":
        del state["first.weight"]["exp_avg"]
    elif how == "of other groups":
        part["param_groups"].reverse()
    return part


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("torch's", "not a part that adamesh's state_dict"),
        ("without a parameter", r"1 of this optimizer's are not in it \(\['first.weight'\]\)"),
        ("without elements", "elements 0:.* of 'first.weight' are missing"),
        ("without a tensor", "the saved state of 'first.weight' is"),
        ("of other groups", "same in another order"),
    ],
)
def test_a_part_that_does_not_fit_changes_nothing(how, message):
    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh).train(range(2))
        before = trainee.snapshot()
        with pytest.raises(CheckpointError, match=message):
            trainee.optimizer.load_state_dict(broken(Trainee(mesh).train(range(1)).snapshot().optimizer, how))
        assert trainee.snapshot() == before

    ThreadWorld(1, 1).run(live)


def test_another_worker_s_part_is_refused():
    def live(mesh: Mesh) -> Trainee:
        return Trainee(mesh, Recipe(bucket_mb=25)).train(range(1))

    trainees = ThreadWorld(1, 2).run(live)
    for mine, other in [(0, 1), (1, 0)]:
        before = trainees[mine].snapshot()
        with pytest.raises(CheckpointError, match="are missing from the saved state"):
            trainees[mine].optimizer.load_state_dict(trainees[other].snapshot().optimizer)
        assert trainees[mine].snapshot() == before
