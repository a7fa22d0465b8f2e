"""Tables in checkpoints: state by rows, at any world size, in any mode."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import CheckpointError
from tests.parity.recommender import Recipe, Recommender, apart, loss_share, on_mesh, take_steps, values
from tests.semantics.ranks import everywhere
from tests.tolerances import TRAJECTORY

F64 = torch.float64
STOP, END = 5, 9
RECIPES = {
    "lazy": Recipe("lazy", END),
    "decayed": Recipe("decayed", END, options={"weight_decay": 0.3}),
    "exact": Recipe("exact", END, options={"weight_decay": 0.3}),
    "exact-bf16": Recipe("exact", END, dtype=torch.bfloat16, options={"weight_decay": 0.3}),
}
SHAPES = [(1, 1), (1, 2), (1, 3), (2, 2)]


def live(mesh: Mesh, recipe: Recipe, load: Path | None, steps: range, save: Path | None):
    model = Recommender(recipe.dtype)
    optimizer = recipe.optimizer(model, mesh)
    if load is not None:
        adamesh.load(load, model, optimizer)
    take_steps(mesh, model, optimizer, steps)
    if save is not None:
        adamesh.save(save, model, optimizer)
    optimizer.flush()
    return values(model)


@pytest.fixture(scope="module", params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture(scope="module")
def folder(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "at-4"
    ThreadWorld(1, 4).run(live, recipe, None, range(STOP), folder)
    return folder


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_saved_at_four_workers_and_gone_on_at_another_number_is_as_if_never_stopped(recipe, folder, shape):
    resumed = ThreadWorld(*shape).run(live, recipe, folder, range(STOP, END), None)
    assert all(torch.equal(resumed[0][name], other[name]) for other in resumed for name in other)
    assert apart(resumed[0], on_mesh((1, 4), recipe)) <= TRAJECTORY[recipe.dtype]


def test_what_is_loaded_at_two_is_saved_again_as_it_was(recipe, folder, tmp_path):
    def whole(mesh, path):
        model = Recommender(recipe.dtype)
        optimizer = recipe.optimizer(model, mesh)
        adamesh.load(path, model, optimizer)
        adamesh.save(tmp_path / "again", model, optimizer)
        return optimizer.full_state_dict()

    first = ThreadWorld(1, 2).run(whole, folder)[0]
    second = ThreadWorld(1, 3).run(whole, tmp_path / "again")[0]
    tables = [number for number, entry in first["state"].items() if "row_count" in entry]
    assert len(tables) == 3
    for number, entry in first["state"].items():
        for key, value in entry.items():
            assert torch.equal(value, second["state"][number][key]), (number, key)
    items = first["state"][tables[0]]
    assert items["row_count"].shape == (23,)
    assert 0 < int(items["row_count"].max()) <= STOP
    assert int(items["row_seen"].max()) == STOP


def test_a_part_of_ones_own_goes_back(recipe):
    def law(mesh):
        model = Recommender(recipe.dtype)
        optimizer = recipe.optimizer(model, mesh)
        take_steps(mesh, model, optimizer, range(3))
        optimizer.flush()
        part, before = optimizer.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
        part = {**part, "state": {n: {k: _copy(v) for k, v in e.items()} for n, e in part["state"].items()}}
        take_steps(mesh, model, optimizer, range(3, 6))
        optimizer.flush()
        there = values(model)
        model.load_state_dict(before)
        optimizer.load_state_dict(part)
        take_steps(mesh, model, optimizer, range(3, 6))
        optimizer.flush()
        return there, values(model)

    for there, again in everywhere(3, law):
        assert apart(there, again) == 0.0


def _copy(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("mode", ["decayed", "exact"])
def test_a_run_may_change_its_mode(tmp_path, mode):
    """Rows that no gradient reached in a lazy run have nothing to catch up on when it becomes an exact one."""
    before = ThreadWorld(1, 2).run(live, Recipe("lazy"), None, range(STOP), tmp_path / "c")[0]
    loaded = ThreadWorld(1, 3).run(live, Recipe(mode), tmp_path / "c", range(0), None)[0]
    assert apart(before, loaded) == 0.0
    trained = ThreadWorld(1, 3).run(live, Recipe(mode), tmp_path / "c", range(STOP, END), None)[0]
    assert apart(before, trained) > 1e-3


def test_the_state_of_torchs_sparse_adam_is_taken_and_gone_on_from():
    def steps(optimizer, modules, numbers):
        for step in numbers:
            ids = torch.tensor([[step % 5, 2], [0, 1]])
            (modules[0](ids).square().sum() + modules[1](ids % 3).square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()

    def fresh():
        modules = nn.ModuleList(
            [nn.Embedding(5, 2, sparse=True, dtype=F64), nn.EmbeddingBag(3, 2, sparse=True, dtype=F64)]
        )
        with torch.no_grad():
            for p in modules.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel(), dtype=F64).view(p.shape))
        return modules

    theirs = fresh()
    reference = torch.optim.SparseAdam(list(theirs.parameters()), lr=0.1)
    steps(reference, theirs, range(4))
    half, state = copy.deepcopy((list(theirs.parameters()), reference.state_dict()))
    steps(reference, theirs, range(4, 8))

    def law(mesh):
        ours = fresh()
        with torch.no_grad():
            for p, value in zip(ours.parameters(), half, strict=True):
                p.copy_(value)
        optimizer = adamesh.AdamW(adamesh.param_groups(ours), lr=0.1, plan=adamesh.Plan(mesh=mesh))
        optimizer.load_full_state_dict(state if mesh.world.rank == 0 else None)
        steps(optimizer, ours, range(4, 8))
        return [p.detach() for p in ours.parameters()]

    for ours in everywhere(2, law):
        for p, q in zip(ours, theirs.parameters(), strict=True):
            assert float((p - q).detach().abs().max()) <= TRAJECTORY[F64]


def test_a_dense_checkpoint_is_refused_by_other_groups_and_nothing_is_changed(tmp_path):
    def law(mesh):
        dense = Recommender(sparse=False)
        optimizer = adamesh.AdamW(dense.named_parameters(), plan=adamesh.Plan(mesh=mesh))
        loss_share(dense, 0).backward()
        optimizer.step()
        adamesh.save(tmp_path / "dense", dense, optimizer)
        model = Recommender()
        other = Recipe("exact").optimizer(model, mesh)
        with pytest.raises(CheckpointError, match="parameter groups"):
            adamesh.load(tmp_path / "dense", model, other)
        assert apart(values(model), values(Recommender())) == 0.0

    everywhere(2, law)
