"""A worker that fails by itself, inside or outside of its step: the others are told, and nothing was changed."""

import time
from collections.abc import Callable

import pytest

from adamesh.comm.base import Mesh
from adamesh.comm.threads import ThreadWorld
from adamesh.errors import PeerLost, StateLost, StepOutOfSync
from tests.checkpoint.trainee import Snapshot, Trainee
from tests.faults.training import (
    FLOAT32,
    MESHES,
    NUM_BUCKETS,
    NUM_STEPS,
    Run,
    Small,
    mesh_id,
    undisturbed,
)

STEP = 1
ERRORS = [RuntimeError("out of something"), MemoryError(), ValueError("no"), KeyError("key")]


def axes(trainee: Trainee) -> list[str]:
    bucket = trainee.optimizer.engine.buckets[0]
    return [name for name in ("within", "across") if getattr(bucket, name) is not None]


def fail_at(trainee: Trainee, axis: str, number: int, error: Exception) -> None:
    """Let the sum of bucket ``number`` along an axis fail, once."""
    passage = getattr(trainee.optimizer.engine.buckets[number], axis)

    def take_in(*_: object) -> None:
        del passage.take_in
        raise error

    passage.take_in = take_in


def fails_once(mesh: Mesh, culprit: int, axis: str, number: int, error: Exception) -> tuple[str, Snapshot]:
    """What a worker is told when one fails in its sums; then all try that step again, and train on."""
    trainee = Trainee(mesh, FLOAT32, model=Small()).train(range(STEP))
    before = trainee.snapshot()
    trainee.backward(STEP)
    if mesh.world.rank == culprit:
        fail_at(trainee, axis, number, error)
    with pytest.raises(type(error) if mesh.world.rank == culprit else StepOutOfSync) as caught:
        trainee.optimizer.step()
    assert trainee.snapshot() == before
    trainee.optimizer.step()
    return str(caught.value), trainee.train(range(STEP + 1, NUM_STEPS)).snapshot()


@pytest.mark.parametrize("shape", MESHES, ids=mesh_id)
def test_a_worker_that_fails_while_summing_aborts_the_step_on_all_and_a_second_try_is_as_good_as_a_first(shape):
    num_ranks = shape[0] * shape[1]
    names = ThreadWorld(*shape).run(lambda mesh: axes(Trainee(mesh, FLOAT32, model=Small())))[0]
    for culprit in range(num_ranks):
        for axis in names:
            for number in range(NUM_BUCKETS):
                error = ERRORS[(culprit + number) % len(ERRORS)]
                told = ThreadWorld(*shape).run(fails_once, culprit, axis, number, error)
                assert [last for _, last in told] == undisturbed(shape).last
                for rank, (said, _) in enumerate(told):
                    assert rank == culprit or f"worker(s) [{culprit}] failed while summing gradients" in said


@pytest.mark.parametrize("shape", MESHES, ids=mesh_id)
def test_several_workers_that_fail_at_once_are_all_named(shape):
    def live(mesh: Mesh) -> str:
        trainee = Trainee(mesh, FLOAT32, model=Small())
        trainee.backward(0)
        culprit = mesh.world.rank < mesh.world.size - 1
        axis = axes(trainee)[-1]
        if culprit:
            fail_at(trainee, axis, mesh.world.rank, MemoryError())
        with pytest.raises(MemoryError if culprit else StepOutOfSync) as caught:
            trainee.optimizer.step()
        return str(caught.value)

    *_, said = ThreadWorld(*shape).run(live)
    assert f"worker(s) {list(range(shape[0] * shape[1] - 1))} failed" in said


class Bug(Exception):
    """A mistake in the caller's own code."""


def in_forward(trainee: Trainee, step: int) -> None:
    raise Bug


def in_backward(trainee: Trainee, step: int) -> None:
    def hook(grad: object) -> None:
        raise Bug

    trainee.model.get_parameter("first.weight").register_hook(hook)


def between_backward_and_step(trainee: Trainee, step: int) -> None:
    trainee.backward(step)
    raise Bug


@pytest.mark.parametrize("bug", [in_forward, in_backward, between_backward_and_step])
@pytest.mark.parametrize("shape", MESHES, ids=mesh_id)
def test_a_worker_that_fails_outside_of_its_step_is_missed_by_the_others_at_once(shape, bug: Callable[..., None]):
    for culprit in range(shape[0] * shape[1]):

        def before_step(trainee: Trainee, step: int, culprit: int = culprit) -> None:
            if step == STEP and trainee.mesh.world.rank == culprit:
                bug(trainee, step)

        begun = time.monotonic()
        run = Run(shape).go(before_step)
        assert time.monotonic() - begun < 5  # the communicator itself would have waited for 10
        for rank, report in enumerate(run.reports):
            assert isinstance(report.error, Bug if rank == culprit else PeerLost)
            assert report.num_committed == STEP
            assert report.trainee is not None
            assert report.trainee.snapshot() == undisturbed(shape).reports[rank].snapshots[STEP]


def test_a_rule_that_fails_in_the_commit_leaves_optimizers_that_say_so(monkeypatch):
    def fail(*args: object) -> None:
        raise MemoryError

    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh, FLOAT32, model=Small()).train(range(STEP))
        trainee.backward(STEP)
        if mesh.world.rank == 1:
            monkeypatch.setattr(trainee.optimizer.engine.transaction.shards[1], "update", fail)
        with pytest.raises(StateLost, match=f"the commit of step {STEP} was cut short") as caught:
            trainee.optimizer.step()
        for call in (trainee.optimizer.step, trainee.optimizer.state_dict):
            with pytest.raises(StateLost) as again:
                call()
            assert str(again.value) == str(caught.value)

    ThreadWorld(1, 3).run(live)
