"""What is evaluated while islands differ: their mean, the same on every worker, and then everybody's own again."""

import pytest
import torch

import adamesh
from adamesh.comm.threads import ThreadWorld
from tests.sync.world import Islander, alike, distance

WORLDS = [(2, 1), (3, 1), (2, 2)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", WORLDS)
def test_inside_it_every_worker_has_the_mean_and_afterwards_its_own(shape, dtype):
    def law(mesh):
        islander = Islander(mesh, adamesh.EveryH(5), dtype=dtype).train(range(3))
        before = islander.values
        with islander.optimizer.agreed():
            inside = islander.values
        return before, inside, islander.values, islander.step(3).values

    def undisturbed(mesh):
        return Islander(mesh, adamesh.EveryH(5), dtype=dtype).train(range(4)).values

    found = ThreadWorld(*shape).run(law)
    mean = {name: torch.stack([f[0][name].double() for f in found]).mean(0) for name in found[0][0]}
    for (before, inside, after, next_one), expected in zip(found, ThreadWorld(*shape).run(undisturbed), strict=True):
        assert alike(inside, found[0][1])
        assert not alike(before, inside)
        assert alike(before, after)
        assert alike(next_one, expected)
        assert distance(inside, mean) <= (1e-15 if dtype == torch.float64 else 4e-2)


def test_after_an_agreement_it_costs_nothing():
    world = ThreadWorld(2, 1)

    def law(mesh):
        islander = Islander(mesh, adamesh.EveryH(2)).train(range(2))
        before = world.num_operations[mesh.world.rank]
        with islander.optimizer.agreed():
            pass
        return world.num_operations[mesh.world.rank] - before

    assert world.run(law) == [0, 0]


def test_what_was_written_from_outside_before_still_counts_afterwards():
    def law(mesh):
        islander = Islander(mesh, adamesh.EveryH(5)).train(range(2))
        with torch.no_grad():
            islander.params["b"].fill_(3.0)
        with islander.optimizer.agreed():
            seen = islander.values["b"]
        islander.step(2)
        return seen, islander.values["b"]

    for seen, after in ThreadWorld(2, 2).run(law):
        assert torch.equal(seen, torch.full_like(seen, 3.0))
        assert (after - 3.0).abs().max() < 0.1


@pytest.mark.parametrize("sync", [adamesh.EveryH(2), adamesh.DiLoCo(2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_coded_way_down_leaves_no_difference_between_islands_after_an_agreement(sync, dtype):
    def law(mesh):
        options = {"wire": adamesh.Wire(down=adamesh.Int4())}
        return Islander(mesh, sync, options=options, dtype=dtype).train(range(4)).values

    found = ThreadWorld(2, 2).run(law)
    assert all(alike(values, found[0]) for values in found)
