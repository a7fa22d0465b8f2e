"""Any number of workers take the step that one would take on the whole batch."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from adamesh.comm.threads import ThreadWorld
from tests.parity.zoo import (
    DEFAULT,
    SMALL,
    Recipe,
    Values,
    Workers,
    Zoo,
    alone,
    distance,
    identical,
    loss,
    micro_batches,
    on_mesh,
)
from tests.process_pool import ProcessPool
from tests.reference.adam import TextbookAdam
from tests.tolerances import SINGLE_PROCESS, TEXTBOOK

STEPS = 12
SHAPES = [(1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (4, 1), (2, 2)]
RECIPES = {
    "plain": Recipe(),
    "coupled-amsgrad-maximize": Recipe(rule="Adam", options={"amsgrad": True, "maximize": True, "lr": 1e-4}),
    "clipped-accumulated-scheduled": Recipe(max_grad_norm=0.5, micro_batches=2, scheduled=True),
}

RIVALS = {
    "nadam": Recipe(rule="NAdam", options={"decoupled_weight_decay": True}, max_grad_norm=0.5, scheduled=True),
    "sgd": Recipe(rule="SGD"),
    "sgd-dampened": Recipe(rule="SGD", options={"momentum": 0.9, "dampening": 0.5}, micro_batches=2),
    "sgd-nesterov": Recipe(rule="SGD", options={"momentum": 0.9, "nesterov": True}),
    "adadelta": Recipe(rule="Adadelta", options={"lr": 1.0}),
}


@pytest.fixture(params=["threads", "processes"])
def transport(request: pytest.FixtureRequest) -> ProcessPool | None:
    return request.getfixturevalue("pool") if request.param == "processes" else None


def replicas_are_identical(histories: list[list[Values]]) -> bool:
    steps = zip(*histories, strict=True)
    return all(identical(a[name], b[name]) for step in steps for a, b in pairwise(step) for name in a)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RECIPES)
def test_a_float64_model_takes_the_single_process_path(transport, name, shape):
    for bucket_mb in (SMALL, DEFAULT) if transport is None else (SMALL,):
        recipe = replace(RECIPES[name], bucket_mb=bucket_mb)
        histories = Workers(shape, transport).train(recipe, STEPS)
        assert replicas_are_identical(histories)
        assert distance(histories[0], alone(recipe, STEPS)[0]) <= SINGLE_PROCESS[torch.float64]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", RIVALS)
def test_the_other_rules_take_the_single_process_path(name, shape):
    histories = Workers(shape).train(RIVALS[name], STEPS)
    assert replicas_are_identical(histories)
    assert distance(histories[0], alone(RIVALS[name], STEPS)[0]) <= SINGLE_PROCESS[torch.float64]


@pytest.mark.parametrize("shape", [(1, 1), *SHAPES], ids=str)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_bfloat16_parameters_are_the_textbooks_float32_masters_rounded(micro_batches, shape):
    recipe = Recipe(torch.bfloat16, micro_batches=micro_batches)
    world = ThreadWorld(*shape)
    results = world.run(on_mesh, recipe, STEPS)
    assert replicas_are_identical([history for history, _ in results])
    book = Book(recipe, world.size)
    for step in range(STEPS):
        book.step(step)
    parameters, state = results[0][0][-1], results[0][1]
    masters = {name: state["state"][i]["master"] for i, name in enumerate(book.names) if i in state["state"]}
    assert distance([masters], [book.masters]) <= TEXTBOOK[torch.bfloat16]
    assert all(identical(parameters[name], master.bfloat16()) for name, master in masters.items())


def test_processes_agree_with_threads_to_the_bit(pool):
    for shape, dtype in [((1, 3), torch.bfloat16), ((2, 2), torch.float32)]:
        recipe = Recipe(dtype, micro_batches=2)
        of_threads, of_processes = (Workers(shape, p).train(recipe, STEPS) for p in (None, pool))
        assert replicas_are_identical([*of_threads, *of_processes])


class Book:
    """The textbook's training: one model, every worker's gradient one after another, summed in float32."""

    def __init__(self, recipe: Recipe, size: int) -> None:
        self.recipe, self.size = recipe, size
        self.model = Zoo(seed=0).to(recipe.dtype)
        names = {p: name for name, p in self.model.named_parameters()}
        self.pages = {names[p]: page(p, g) for g in recipe.groups(self.model) for p in g["params"]}

    @property
    def names(self) -> list[str]:
        """In the optimizer's order."""
        return list(self.pages)

    @property
    def masters(self) -> Values:
        return {name: page.master for name, page in self.pages.items()}

    @torch.no_grad()
    def step(self, step: int) -> None:
        by_rank = [self._gradients(step, rank) for rank in range(self.size)]
        for name, p in self.model.named_parameters():
            p.copy_(self.pages[name].step([found.get(name) for found in by_rank]))

    @torch.enable_grad()
    def _gradients(self, step: int, rank: int) -> Values:
        total: Values = {}
        for micro in micro_batches(self.recipe, step, rank, self.size):
            loss(self.model, micro, self.recipe).backward()
            for name, p in self.model.named_parameters():
                if p.grad is not None:
                    total[name] = total.get(name, 0.0) + p.grad.float()
            self.model.zero_grad()
        return total


def page(p: Tensor, group: Mapping[str, Any]) -> TextbookAdam:
    return TextbookAdam(p, lr=group.get("lr", 1e-2), weight_decay=group.get("weight_decay", 1e-2))
