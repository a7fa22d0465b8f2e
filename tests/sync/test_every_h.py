"""Islands that step alone and average now and then."""

import pytest
import torch
from torch import nn

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import ConfigurationError, IncompatiblePlan
from tests.reference.islands import LocalAdam
from tests.sync.world import SHAPES, Islander, alike, distance, island_gradient, start, train
from tests.tolerances import TEXTBOOK

WORLDS = [(2, 1), (3, 1), (2, 2), (3, 2)]
NUM_STEPS = 12
F64 = torch.float64


@pytest.mark.parametrize("shape", WORLDS)
@pytest.mark.parametrize("periods", [{"h": 2}, {"h": 2, "exp_avg": 3, "exp_avg_sq": 2}])
def test_islands_take_the_textbooks_steps(shape, periods):
    num_islands, size = shape
    books = {name: LocalAdam(start(name), num_islands, **periods, options={"lr": 1e-2}) for name in SHAPES}
    found = train(shape, adamesh.EveryH(**periods), NUM_STEPS)
    for step in range(NUM_STEPS):
        expected = {
            name: book.step([island_gradient(name, step, i, size) for i in range(num_islands)])
            for name, book in books.items()
        }
        for worker, values in enumerate(found):
            book = {name: by_island[worker // size] for name, by_island in expected.items()}
            assert distance(values[step], book) <= TEXTBOOK[F64], (step, worker)


@pytest.mark.parametrize("shape", [(3, 1), (2, 2), (1, 2)])
def test_every_h_of_one_is_every_step_to_the_bit(shape):
    ours, exact = (train(shape, sync, 4) for sync in (adamesh.EveryH(1, exp_avg=3), adamesh.EveryStep()))
    assert all(alike(a[-1], b[-1]) for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("dtype", [F64, torch.bfloat16])
def test_replicas_differ_between_agreements_and_are_identical_after_one(dtype):
    found = train((3, 1), adamesh.EveryH(3), 9, dtype=dtype)
    for step in range(9):
        assert alike(found[0][step], found[1][step]) == alike(found[0][step], found[2][step]) == ((step + 1) % 3 == 0)


def test_an_island_of_one_steps_alone_without_a_word():
    world = ThreadWorld(3, 1)

    def law(mesh):
        islander = Islander(mesh, adamesh.EveryH(5))
        before = world.num_operations[mesh.world.rank]
        islander.train(range(4))
        stats = islander.optimizer.stats()
        return world.num_operations[mesh.world.rank] - before, stats.bytes_up + stats.bytes_down + stats.bytes_control

    assert world.run(law) == [(0, 0)] * 3


def test_an_island_of_several_talks_to_itself_only():
    def law(mesh):
        Islander(mesh, adamesh.EveryH(9)).train(range(4 * (mesh.replicate.rank + 1)))

    ThreadWorld(2, 2).run(law)  # whoever waited for the other island, which has made fewer steps, would never end


@pytest.mark.parametrize("build", [adamesh.SGD, adamesh.Adadelta, adamesh.NAdam])
def test_every_rule_averages_what_it_keeps(build):
    options = {"build": build} | ({"momentum": 0.9} if build is adamesh.SGD else {})

    def law(mesh):
        islander = Islander(mesh, adamesh.EveryH(2), options=options).train(range(4))
        state = islander.optimizer.state_dict()["state"]["a"]
        return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}

    first, *others = ThreadWorld(3, 1).run(law)
    assert first
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)


def test_one_local_step_of_plain_sgd_and_an_average_is_a_step_on_the_mean_gradient():
    options = {"build": adamesh.SGD, "lr": 0.1}
    found = train((3, 1), adamesh.EveryH(2), 2, options=options)
    for name in SHAPES:
        gradients = [[island_gradient(name, step, i, 1) for i in range(3)] for step in range(2)]
        moved = sum((g for step in gradients for g in step if g is not None), torch.zeros(SHAPES[name], dtype=F64)) / 3
        assert torch.allclose(found[0][1][name], start(name) - 0.1 * moved, rtol=0, atol=1e-12)


def test_what_no_island_moved_keeps_its_bits():
    def law(mesh):
        third, moving = nn.Parameter(torch.rand(100)), nn.Parameter(torch.zeros(1))
        optimizer = adamesh.AdamW([third, moving], plan=adamesh.Plan(mesh=mesh, sync=adamesh.EveryH(2)))
        for step in range(6):
            optimizer.zero_grad()
            ((third.sum() if step == 0 else 0) + moving * mesh.world.rank).backward()
            optimizer.step()
            if step == 1:
                agreed = third.detach().clone()
        return torch.equal(third, agreed)

    assert all(ThreadWorld(3, 1).run(law))


def test_a_frozen_parameter_that_one_island_begins_to_use_is_everybodys_after_the_next_agreement():
    def law(mesh):
        frozen = nn.Parameter(torch.zeros(3), requires_grad=False)
        moving = nn.Parameter(torch.zeros(3))
        optimizer = adamesh.AdamW([frozen, moving], lr=0.1, plan=adamesh.Plan(mesh=mesh, sync=adamesh.EveryH(2)))
        for _ in range(2):
            frozen.requires_grad_(mesh.world.rank == 0)
            optimizer.zero_grad()
            (frozen.sum() + moving.sum()).backward()
            optimizer.step()
        return frozen.detach().clone(), optimizer.state_dict()["state"]["0.0"]["step"]

    first, other = ThreadWorld(2, 1).run(law)
    assert torch.equal(first[0], other[0])
    assert first[0].abs().min() > 0.05
    assert (first[1], other[1]) == (2, 0)


def test_one_island_is_an_ordinary_run_to_the_bit():
    ours, exact = (train((1, 2), sync, 4) for sync in (adamesh.EveryH(2), adamesh.EveryStep()))
    assert alike(ours[0][-1], exact[0][-1])


def test_stats_tell_how_far_islands_were_apart_and_what_a_step_costs_on_average():
    def law(mesh):
        optimizer = Islander(mesh, adamesh.EveryH(2)).train(range(3)).optimizer
        return optimizer.stats()

    stats = ThreadWorld(2, 1).run(law)[0]
    assert 0 < stats.divergence < 1
    assert stats.bytes_up == 0
    assert stats.bytes_per_step > 8 * sum(start(name).numel() for name in SHAPES) / 2


def test_islands_with_other_hyper_parameters_learn_it_when_they_meet():
    def law(mesh):
        islander = Islander(mesh, adamesh.EveryH(2), options={"lr": 1e-2 * (1 + mesh.world.rank)})
        islander.step(0)
        with pytest.raises(ConfigurationError, match="Step 1 was made"):
            islander.step(1)
        return islander.optimizer.state_dict()["adamesh"]["step"]

    assert ThreadWorld(2, 1).run(law) == [2, 2]


@pytest.mark.parametrize("values", [{"h": 0}, {"h": 2.0}, {"h": 2, "exp_avg": 0}, {"h": True}])
def test_periods_are_whole_numbers_of_at_least_one(values):
    with pytest.raises(ConfigurationError, match="must be a whole number of at least 1"):
        adamesh.EveryH(**values)


def test_embeddings_by_rows_and_lbfgs_need_every_step():
    plan = adamesh.Plan(sync=adamesh.EveryH(2))
    table = nn.Embedding(10, 2, sparse=True)
    with pytest.raises(IncompatiblePlan, match="rows are exchanged every step"):
        adamesh.AdamW(adamesh.param_groups(nn.Sequential(table)), plan=plan)
    with pytest.raises(IncompatiblePlan, match="LBFGS"):
        adamesh.LBFGS(table.parameters(), plan=plan)


def test_parameters_are_not_coded_between_islands():
    with pytest.raises(IncompatiblePlan, match=r"EveryH\(h=4.* with Wire\(across=Int8\(.*leave across out"):
        adamesh.Plan(sync=adamesh.EveryH(4), wire=adamesh.Wire(across=adamesh.Int8()))


def test_an_island_skips_a_step_alone_and_has_a_loss_scale_of_its_own():
    def law(mesh):
        p = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = adamesh.AdamW([p], plan=adamesh.Plan(mesh=mesh, sync=adamesh.EveryH(3)))
        scaler = adamesh.GradScaler(init_scale=8.0)
        for step in range(3):
            optimizer.zero_grad()
            overflow = float("inf") if step == 1 and mesh.replicate.rank == 0 else 1.0
            scaler.scale((p * overflow).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        return p.detach(), optimizer.state_dict()["state"]["0.0"]["step"], scaler.get_scale()

    found = ThreadWorld(2, 2).run(law)
    assert all(torch.equal(values, found[0][0]) for values, _, _ in found)
    assert [(count, scale) for _, count, scale in found] == [(2, 4.0)] * 2 + [(3, 8.0)] * 2


def test_momentum_of_others_is_not_divided_by_a_second_moment_that_was_never_there():
    def law(mesh):
        p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        optimizer = adamesh.AdamW([p], lr=1e-2, plan=adamesh.Plan(mesh=mesh, sync=adamesh.EveryH(2, exp_avg_sq=9)))
        for _ in range(5):
            p.grad = torch.tensor(
                [1.0, float(mesh.world.rank)], dtype=torch.float64
            )  # the first one never sees the second
            optimizer.step()
        return p.detach()

    for value in ThreadWorld(2, 1).run(law):
        assert value.abs().max() < 0.1
