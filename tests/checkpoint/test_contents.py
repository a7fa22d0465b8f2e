"""What a checkpoint folder holds, and what comes back out of it."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import adamesh
from adamesh.checkpoint.manifest import read_manifest
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError
from tests.checkpoint.trainee import Net, Recipe, Snapshot, Trainee, difference, trained, whole

EXTRA: dict[str, Any] = {
    "epoch": 3,
    "name": "ünïcode",
    "nested": {"list": [1, 2.5, None, True], "huge": 2**80},
    "inf": float("inf"),
}


def both(law, *args):
    return ThreadWorld(1, 2).run(law, *args)


def test_extra_comes_back_on_every_worker(tmp_path):
    def law(mesh: Mesh) -> object:
        trainee = Trainee(mesh).save(tmp_path / "c", **EXTRA)
        return adamesh.load(tmp_path / "c", trainee.model, trainee.optimizer)

    assert both(law) == [EXTRA, EXTRA]


@pytest.mark.parametrize("value", [torch.zeros(2), {1, 2}, b"bytes", object()], ids=lambda value: type(value).__name__)
def test_extra_that_json_cannot_hold_is_refused_by_name_on_all_and_nothing_is_written(tmp_path, value):
    def law(mesh: Mesh) -> str:
        extra = value if mesh.world.rank == 1 else 1
        with pytest.raises(CheckpointError, match="extra 'here' cannot be written as JSON") as caught:
            Trainee(mesh).save(tmp_path / "c", fine=1, here=extra)
        return str(caught.value)

    first, second = both(law)
    assert first == f"on worker 1: {second}"
    assert not list(tmp_path.rglob("*.*"))


def test_a_hyper_parameter_that_json_cannot_hold_is_refused_on_all(tmp_path):
    def law(mesh: Mesh) -> None:
        trainee = Trainee(mesh)
        trainee.optimizer.param_groups[0]["schedule"] = object()
        with pytest.raises(CheckpointError, match=r"could not be written .*not JSON serializable"):
            trainee.save(tmp_path / "c")

    both(law)


def test_the_folder_holds_safetensors_and_json_and_nothing_else(tmp_path):
    trained((2, 2), range(2), save=tmp_path / "c")
    files = sorted(tmp_path.joinpath("c").iterdir())
    manifest = read_manifest(tmp_path / "c")
    assert [file.name for file in files] == sorted(["manifest.json", *(record.name for record in manifest.files)])
    for file in files:
        if file.suffix == ".safetensors":
            assert load_file(file)
        else:
            assert all(isinstance(json.loads(line), dict) for line in file.read_text().splitlines())


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_whoever_may_look_into_the_folder_may_read_the_files(tmp_path, mode):
    folder = tmp_path / "c"
    folder.mkdir()
    folder.chmod(mode)
    trained((1, 2), range(1), save=folder)
    assert {file.stat().st_mode & 0o777 for file in folder.glob("*.safetensors")} == {mode & 0o666}


def test_state_is_written_once_whatever_the_number_of_islands(tmp_path):
    trained((2, 3), range(1), save=tmp_path / "c")
    manifest = read_manifest(tmp_path / "c")
    names = {record.name for record in manifest.files if record.name.startswith("state-")}
    assert names <= {f"state-0001-{rank:05d}-of-00006.safetensors" for rank in range(3)}
    held = sum(run.stop - run.start for run in manifest.runs if run.name == "first.weight")
    assert held == 6 * 11


def test_every_tensor_of_the_model_is_written_once_and_tied_ones_are_found_under_both_names(tmp_path):
    trained((1, 3), range(1), save=tmp_path / "c")
    manifest = read_manifest(tmp_path / "c")
    assert set(manifest.model) == set(Net().state_dict())
    assert manifest.model["tied.weight"] == manifest.model["second.weight"]
    written = [key for file in tmp_path.joinpath("c").glob("model-*") for key in load_file(file)]
    assert sorted(written) == sorted(set(Net().state_dict()) - {"tied.weight"})


def test_tied_parameters_stay_tied(tmp_path):
    trained((1, 2), range(2), save=tmp_path / "c")

    def law(mesh: Mesh) -> bool:
        model = Trainee(mesh, seed=5).load(tmp_path / "c").train(range(2, 4)).model
        return model.get_parameter("second.weight") is model.get_parameter("tied.weight")

    assert both(law) == [True, True]


def test_the_model_can_be_read_without_adamesh(tmp_path):
    saved = trained((1, 2), range(2), save=tmp_path / "c")
    tensors = {key: t for file in tmp_path.joinpath("c").glob("model-*") for key, t in load_file(file).items()}
    tensors["tied.weight"] = tensors["second.weight"]
    assert difference(saved.model, tensors) is None


@pytest.mark.parametrize("compiled_when_saved", [True, False])
def test_a_compiled_model_and_its_plain_self_read_each_other_s_checkpoints(tmp_path, compiled_when_saved):
    def law(mesh: Mesh, compiled: bool, steps: range, load: bool) -> Snapshot:
        model = Net(seed=99 if load else 0).double()
        trainee = Trainee(mesh, model=cast(nn.Module, torch.compile(model, backend="eager")) if compiled else model)
        if load:
            trainee.load(tmp_path / "c")
        trainee.train(steps).save(tmp_path / "c")
        trainee.model = model
        return trainee.snapshot()

    alone = ThreadWorld(1, 1)
    alone.run(law, compiled_when_saved, range(2), False)
    resumed = alone.run(law, not compiled_when_saved, range(2, 4), True)[0]
    assert difference(resumed.model, trained((1, 1), range(4)).model) is None


def test_an_optimizer_built_without_names_reads_what_one_with_names_wrote_and_the_other_way(tmp_path):
    def live(mesh: Mesh, named: bool, folder: Path, load: Path | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(5, 4)
        plan = adamesh.Plan(mesh=mesh)
        optimizer = adamesh.AdamW(model.named_parameters() if named else model.parameters(), plan=plan)
        if load:
            adamesh.load(load, model, optimizer)
        model(torch.ones(1, 5)).sum().backward()
        optimizer.step()
        adamesh.save(folder, model, optimizer)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    alone = ThreadWorld(1, 1)
    for first in (True, False):
        alone.run(live, first, tmp_path / f"{first}1", None)
        alone.run(live, not first, tmp_path / f"{first}2", tmp_path / f"{first}1")
        alone.run(live, first, tmp_path / f"{first}3", tmp_path / f"{first}2")
        assert read_manifest(tmp_path / f"{first}3").steps == {"weight": 3, "bias": 3}


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.float16], ids=str)
def test_complex_and_half_parameters_and_buffers_come_back_to_the_bit(tmp_path, dtype):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5).to(dtype).t())  # not contiguous
            self.register_buffer("kept", torch.randn(2, 2).to(dtype))
            self.register_buffer("flag", torch.tensor(True))
            self.register_buffer("not_kept", torch.zeros(1), persistent=False)

    def law(mesh: Mesh) -> bool:
        torch.manual_seed(0)
        model, plan = Odd(), adamesh.Plan(mesh=mesh)
        optimizer = adamesh.AdamW(model.named_parameters(), plan=plan)
        model.weight.abs().sum().backward()
        optimizer.step()
        before = whole_state(model, optimizer)
        adamesh.save(tmp_path / "c", model, optimizer)
        with torch.no_grad():
            model.weight.fill_(7)
            model.get_buffer("kept").fill_(7)
        adamesh.load(tmp_path / "c", model, optimizer)
        return whole_state(model, optimizer) == before

    assert ThreadWorld(1, 1).run(law) == [True]


def whole_state(model: nn.Module, optimizer: adamesh.MeshOptimizer) -> object:
    model_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return whole([Snapshot(model_state, optimizer.state_dict())])


def test_a_model_s_own_state_that_is_no_tensor_is_refused_by_name(tmp_path):
    class Stateful(nn.Linear):
        def get_extra_state(self) -> object:
            return {"calls": 3}

    def law(mesh: Mesh) -> None:
        model = Stateful(2, 2)
        optimizer = adamesh.AdamW(model.parameters(), plan=adamesh.Plan(mesh=mesh))
        with pytest.raises(CheckpointError, match="'_extra_state' is a dict, and checkpoints hold tensors and JSON"):
            adamesh.save(tmp_path / "c", model, optimizer)

    both(law)


def test_saving_and_loading_between_backward_and_step_leaves_the_step_what_it_was(tmp_path):
    def law(mesh: Mesh, interrupted: bool) -> Snapshot:
        trainee = Trainee(mesh).train(range(2))
        trainee.backward(2)
        if interrupted:
            trainee.save(tmp_path / "c").load(tmp_path / "c")
        trainee.optimizer.step()
        return trainee.snapshot()

    assert both(law, True) == both(law, False)


def test_buffers_are_those_of_the_worker_that_wrote_them_and_the_same_on_all_after_loading(tmp_path):
    def law(mesh: Mesh) -> int:
        trainee = Trainee(mesh, Recipe())
        trainee.model.get_buffer("seen").fill_(100 + mesh.world.rank)
        return int(trainee.save(tmp_path / "c").load(tmp_path / "c").model.get_buffer("seen"))

    first, second = both(law)
    assert first == second
    assert first in (100, 101)
