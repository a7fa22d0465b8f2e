"""Tables with row-sparse gradients, against torch's SparseAdam, torch's dense Adam, and the textbook."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

import adamesh
from tests.parity.recommender import Recipe, Recommender, apart, by_torch, on_mesh
from tests.reference.rows import TextbookDecayed, TextbookRow
from tests.semantics.ranks import everywhere
from tests.tolerances import ROWS_200_STEPS, SINGLE_PROCESS

F64 = torch.float64
SHAPES = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")


def sparse_adam(model: nn.Module) -> list[torch.optim.Optimizer]:
    assert isinstance(model, Recommender)
    tables = [model.items.weight, model.popularity.weight, model.genres.weight]
    return [torch.optim.SparseAdam(tables), torch.optim.AdamW(model.head.parameters(), fused=True)]


def dense_adam(recipe: Recipe):
    build = torch.optim.AdamW if recipe.decoupled else torch.optim.Adam
    return lambda model: [build(model.parameters(), fused=True, **(recipe.options or {}))]


@cache
def torchs(mode: str) -> dict[str, torch.Tensor]:
    recipe = Recipe(mode)
    if mode == "lazy":
        return dict(by_torch(recipe, sparse_adam, sparse=True))
    return dict(by_torch(recipe, dense_adam(recipe), sparse=False))


@shapes
def test_lazy_is_torchs_sparse_adam(shape):
    assert apart(on_mesh(shape, Recipe("lazy")), torchs("lazy")) <= SINGLE_PROCESS[F64]


def test_on_one_worker_lazy_is_torchs_sparse_adam_to_the_bit():
    recipe = Recipe("lazy", dtype=torch.float32)
    ours, theirs = on_mesh((1, 1), recipe), by_torch(recipe, sparse_adam, sparse=True)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@shapes
def test_exact_is_torchs_dense_adam(shape):
    assert apart(on_mesh(shape, Recipe("exact")), torchs("exact")) <= SINGLE_PROCESS[F64]


LONG = Recipe("exact", 200, options={"weight_decay": 0.1})


@pytest.mark.parametrize(("dtype", "shape"), [(F64, (1, 2)), (torch.float32, (1, 1))])
def test_exact_is_torchs_dense_adam_over_200_steps_with_a_schedule(dtype, shape):
    recipe = replace(LONG, dtype=dtype)
    theirs = by_torch(recipe, dense_adam(recipe), sparse=False)
    assert apart(on_mesh(shape, recipe), theirs) <= ROWS_200_STEPS[recipe.dtype]


OPTIONS = {
    "no-decay": Recipe("exact", options={"weight_decay": 0.0}),
    "coupled-decay": Recipe("exact", options={"weight_decay": 0.1}, decoupled=False),
    "amsgrad": Recipe("exact", options={"amsgrad": True}),
    "maximize": Recipe("exact", options={"maximize": True}),
    "clipped": Recipe("exact", max_grad_norm=0.3),
}


@pytest.mark.parametrize("recipe", OPTIONS.values(), ids=OPTIONS)
def test_exact_is_torchs_dense_adam_with_every_option(recipe):
    theirs = by_torch(recipe, dense_adam(recipe), sparse=False)
    assert apart(on_mesh((1, 2), recipe), theirs) <= SINGLE_PROCESS[F64]


@pytest.mark.parametrize("mode", ["lazy", "decayed"])
def test_the_other_modes_are_not_dense_adam(mode):
    assert apart(on_mesh((1, 2), Recipe(mode)), torchs("exact")) > 1e-3


@shapes
def test_decayed_takes_the_same_path_at_any_world_size(shape):
    options = {"weight_decay": 0.3}
    recipe = Recipe("decayed", of_tables=options, max_grad_norm=0.5)
    assert apart(on_mesh(shape, recipe), on_mesh((1, 1), recipe)) <= SINGLE_PROCESS[F64]


def column(mesh, mode, start, gradients, build=adamesh.AdamW, **options):
    """A table of one column, and a step for each mapping of row to mean gradient; the last rank touches nothing."""
    table = nn.Embedding(len(start), 1, sparse=True, dtype=F64)
    with torch.no_grad():
        table.weight.copy_(torch.tensor(start, dtype=F64)[:, None])
    optimizer = build(adamesh.param_groups(table, mode, **options), plan=adamesh.Plan(mesh=mesh))
    rank, size = mesh.world.rank, mesh.world.size
    active = max(1, size - 1)
    for touched in gradients:
        if touched and rank < active:
            factors = torch.tensor(list(touched.values()), dtype=F64)[:, None] * (size / active)
            (table(torch.tensor(list(touched))) * factors).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer.flush()
    return table.weight.detach().squeeze(1).tolist()


PULLS = [{0: 1.0}, {0: -0.3, 2: 2.0}, {0: 0.1}, {2: 0.5}, {0: 0.7, 4: -1.0}, {0: 0.2}, {4: 3.0, 2: 0.4}]


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_decayed_is_the_textbooks(num_ranks, decoupled):
    start = [1.0, 2.0, 3.0, 4.0, 7.0]
    book = TextbookDecayed([TextbookRow(v) for v in start], lr=0.1, weight_decay=0.2, decoupled=decoupled)
    for gradients in PULLS:
        book.step(gradients)
    build = adamesh.AdamW if decoupled else adamesh.Adam
    options = {"lr": 0.1, "weight_decay": 0.2}
    ours = everywhere(num_ranks, lambda mesh: column(mesh, "decayed", start, PULLS, build, **options))[0]
    assert ours == pytest.approx([row.value for row in book.rows], abs=1e-12)


def test_with_every_row_touched_in_every_step_decayed_is_adamw():
    start, gradients = [1.0, -2.0], [{0: g, 1: 2 - g} for g in (1.0, 0.3, -0.5, 1.1)]
    dense = nn.Parameter(torch.tensor(start, dtype=F64))
    reference = torch.optim.AdamW([dense], lr=0.1, weight_decay=0.2)
    for touched in gradients:
        dense.grad = torch.tensor([touched[0], touched[1]], dtype=F64)
        reference.step()
    ours = everywhere(2, lambda mesh: column(mesh, "decayed", start, gradients, lr=0.1, weight_decay=0.2))[0]
    assert ours == pytest.approx(dense.tolist(), abs=1e-12)


def test_a_row_first_seen_late_takes_no_longer_a_step_than_one_seen_first():
    gradients = [{0: 1.0}] * 200 + [{1: 1.0}]

    def moved(mode):
        return -everywhere(1, lambda mesh: column(mesh, mode, [0.0, 0.0], gradients, lr=1.0))[0][1]

    assert moved("decayed") == pytest.approx(1.0, rel=1e-6)
    assert moved("lazy") == pytest.approx(0.1 * (1 - 0.999**201) ** 0.5 / 0.001**0.5, rel=1e-6)  # torch's
