"""A replica whose memory has changed is found in the vote, and repaired."""

import random

import pytest
import torch

import adamesh
from tests.guard.world import NAMES, Worker, everywhere, flip, refusal, same

GUARD = adamesh.Guard(check_every=4)
INT8 = {"wire": adamesh.Wire(up=adamesh.Int8(), down=adamesh.Int8())}


@pytest.mark.parametrize("plan", [{}, INT8], ids=["exact", "int8"])
@pytest.mark.parametrize("shape", [(1, 3), (2, 2)])
def test_every_flipped_bit_is_found_in_the_step_it_spoils_and_undone(plan, shape):
    def law(mesh):
        chance = random.Random(1)
        worker = Worker(mesh, GUARD, **plan)
        for step in range(20):
            before = worker.held()
            name, rank = chance.choice(NAMES), chance.randrange(mesh.world.size)
            element, bit = chance.randrange(worker.params[name].numel()), chance.randrange(32)
            if mesh.world.rank == rank:
                flip(worker.params[name], element, bit)
            worker.step(step)
            found = refusal(worker.optimizer)
            assert (found.reason, found.suspects, found.parameter) == ("replicas", (rank,), name)
            assert same(worker.held(), before)
            worker.step(step)
            assert worker.optimizer.stats().committed

    everywhere(shape, law)


def test_of_two_workers_the_owner_is_right():
    def law(mesh):
        worker = Worker(mesh, GUARD)
        worker.step(0)
        if mesh.world.rank == 1:
            flip(worker.params["0.weight"], 5, 30)
        worker.step(1)
        assert refusal(worker.optimizer).suspects == ()
        return worker.held()["param 0.weight"]

    one, other = everywhere((1, 2), law)
    assert torch.equal(one, other)


def test_islands_that_step_alone_compare_inside_the_island_only():
    def law(mesh):
        worker = Worker(mesh, GUARD, sync=adamesh.EveryH(8))
        for step in range(6):
            if step == 5 and mesh.world.rank == 1:
                flip(worker.params["2.bias"], 0, 3)
            worker.step(step)
        return worker.optimizer.stats().refusal is not None

    assert everywhere((2, 3), law) == [True] * 3 + [False] * 3


def test_a_parameter_that_lives_beside_its_bucket_is_checked_as_well():
    def law(mesh):
        conv = torch.nn.Conv2d(2, 3, 3)
        conv.weight.data = torch.full((3, 2, 3, 3), 0.5).to(memory_format=torch.channels_last)
        optimizer = adamesh.AdamW(conv.parameters(), plan=adamesh.Plan(mesh=mesh, guard=GUARD))
        if mesh.world.rank == 1:
            conv.weight.data.permute(0, 2, 3, 1).view(-1)[4] = 0.25
        conv(torch.ones(1, 2, 4, 4).to(memory_format=torch.channels_last)).sum().backward()
        optimizer.step()
        assert refusal(optimizer).reason == "replicas"
        assert bool((conv.weight == 0.5).all())

    everywhere((1, 3), law)
