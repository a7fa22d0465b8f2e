"""Steps that are too bad to be made are not made, on any worker."""

import random
from math import inf, isfinite, nan
from typing import Any

import pytest
import torch

import adamesh
from tests.device import DEVICE
from tests.guard.world import NAMES, Worker, everywhere, refusal, same, times

PLANS: dict[str, dict[str, Any]] = {
    "exact": {},
    "int8": {"wire": adamesh.Wire(up=adamesh.Int8(), down=adamesh.Int8())},
    "int4": {"wire": adamesh.Wire(up=adamesh.Feedback(adamesh.Int4()), down=adamesh.Int4())},
    "late": {"overlap": False, "max_grad_norm": 1.0},
}
QUICK = adamesh.Guard(warmup_steps=5, window=20)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("factor", [nan, inf, 1e4])
def test_a_spoilt_step_changes_nothing_and_names_who_spoilt_it(shape, plan, factor):
    def law(mesh):
        worker = Worker(mesh, QUICK, **{"overlap": False} | PLANS[plan])
        for step in range(8):
            worker.step(step)
        before, culprit = worker.held(), mesh.world.size - 1
        worker.step(8, times(factor, "2.weight") if mesh.world.rank == culprit else None)
        found = refusal(worker.optimizer)
        assert same(worker.held(), before)
        assert found.suspects == (culprit,)
        assert found.parameter == "2.weight"
        assert found.reason == ("norm" if isfinite(factor) else "non-finite")

    everywhere(shape, law)


@pytest.mark.parametrize("plan", PLANS)
def test_a_step_skipped_and_made_again_equals_one_that_was_never_spoilt(plan):
    def law(mesh, spoilt):
        worker = Worker(mesh, QUICK, **{"overlap": False} | PLANS[plan])
        for step in range(12):
            if spoilt and step in (7, 10):
                worker.step(step, times(nan, "0.bias") if mesh.world.rank == 1 else None)
            worker.step(step)
        return worker.held()

    for clean, again in zip(everywhere((2, 2), law, False), everywhere((2, 2), law, True), strict=True):
        assert same(clean, again)


def test_every_injection_is_caught_before_it_is_committed():
    def law(mesh):
        chance = random.Random(0)
        worker = Worker(mesh, QUICK, overlap=False)
        caught = 0
        for step in range(160):
            factor, name, rank = chance.choice((nan, inf, -inf, 1e4)), chance.choice(NAMES), chance.randrange(3)
            hit = step >= 5 and chance.random() < 0.5
            before = worker.held()
            worker.step(step, times(factor, name) if hit and mesh.world.rank == rank else None)
            stats = worker.optimizer.stats()
            assert stats.committed is not hit, f"step {step}: {factor} in {name}"
            assert same(worker.held(), before) is hit
            caught += hit
        return caught

    assert min(everywhere((1, 3), law)) > 50


def test_a_loss_that_jumps_or_is_not_a_number_stops_the_step():
    def law(mesh):
        worker = Worker(mesh, QUICK)
        made = []
        for step in range(12):
            loss = worker.backward(step)
            bad = {9: nan, 11: 1e3 * loss}.get(step, loss) if mesh.world.rank == 1 else loss
            worker.optimizer.tell_loss(bad)
            worker.optimizer.step()
            made.append(worker.optimizer.stats().committed)
        assert made == [step not in (9, 11) for step in range(12)]
        assert refusal(worker.optimizer).reason == "loss"
        assert refusal(worker.optimizer).suspects == (1,)

    everywhere((1, 2), law)


def test_islands_that_step_alone_are_guarded_each_by_itself():
    def law(mesh):
        worker = Worker(mesh, QUICK, sync=adamesh.EveryH(4), overlap=False)
        for step in range(12):
            worker.step(step, times(nan, "0.weight") if mesh.world.rank == 3 and step == 9 else None)
            if step == 9 and mesh.replicate.rank == 1:
                assert refusal(worker.optimizer).suspects == (3,)
            else:
                assert worker.optimizer.stats().committed
        assert all(bool(p.isfinite().all()) for p in worker.params.values())

    everywhere((2, 2), law)


def test_stale_gradients_are_judged_when_they_are_due():
    def law(mesh):
        worker = Worker(mesh, QUICK, sync=adamesh.Stale(1), overlap=False)
        skipped = []
        for step in range(12):
            worker.step(step, times(nan, "0.weight") if mesh.world.rank == 1 and step == 9 else None)
            skipped += [step] * (not worker.optimizer.stats().committed)
        assert skipped == [10]
        assert all(bool(p.isfinite().all()) for p in worker.params.values())

    everywhere((1, 2), law)


def test_a_worker_that_remembers_nothing_learns_from_the_others():
    def law(mesh):
        worker = Worker(mesh, QUICK, overlap=False)
        for step in range(10):
            worker.step(step)
        if mesh.world.rank == 0:
            transaction: Any = worker.optimizer.engine.transaction
            transaction.watch.norms.replace([])
        worker.step(10, times(1e4, "0.weight") if mesh.world.rank == 1 else None)
        return worker.optimizer.stats().committed

    assert everywhere((1, 2), law) == [False, False]


def test_under_a_scaler_what_is_not_finite_is_the_scalers_business():
    def law(mesh):
        worker = Worker(mesh, QUICK, overlap=False)
        worker.backward(0)
        times(inf, "0.weight")(worker)
        assert worker.optimizer.step_scaled(2.0) is False
        assert worker.optimizer.stats().refusal is None

    everywhere((1, 2), law)


def test_pushed_gradients_have_no_guard():
    with pytest.raises(adamesh.IncompatiblePlan, match="vote on no step"):
        adamesh.Plan(sync=adamesh.Async(), guard=adamesh.Guard())


def test_what_a_closure_gives_is_judged():
    def law(mesh):
        worker = Worker(mesh, QUICK)

        def closure():
            loss = worker.model(torch.ones(1, 12, device=DEVICE)).sum()
            worker.optimizer.zero_grad()
            loss.backward()
            return loss * nan

        worker.optimizer.step(closure)
        return refusal(worker.optimizer).reason

    assert everywhere((1, 1), law) == ["loss"]


def test_row_sparse_gradients_are_guarded_too():
    def law(mesh):
        table = torch.nn.Embedding(20, 4, sparse=True)
        plan = adamesh.Plan(mesh=mesh, guard=QUICK)
        optimizer = adamesh.AdamW(adamesh.param_groups(table, "lazy"), plan=plan)
        for step in range(8):
            optimizer.zero_grad()
            table(torch.tensor([step, 3])).square().sum().mul(nan if step == 7 else 1.0).backward()
            before = table.weight.detach().clone()
            optimizer.step()
        assert torch.equal(table.weight, before)
        assert refusal(optimizer).parameter == "weight"

    everywhere((1, 2), law)
