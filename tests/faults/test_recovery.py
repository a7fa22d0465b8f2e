"""After a commit was cut short nothing goes on; after a checkpoint or a good state was loaded, everything does."""

from pathlib import Path

import pytest

from adamesh.comm.base import Mesh
from adamesh.comm.threads import Drop, Kill, ThreadWorld
from adamesh.engine.gather import Gather
from adamesh.engine.transaction import Transaction
from adamesh.errors import PeerLost, StateLost
from tests.checkpoint.trainee import Snapshot, Trainee, whole
from tests.faults.training import (
    FLOAT32,
    NUM_BUCKETS,
    NUM_STEPS,
    Run,
    Shape,
    Small,
    mesh_id,
    moment,
    undisturbed,
)

STEP = 1
"""The step in which things go wrong."""


def gathers(shape: Shape) -> range:
    """The operations of rank 0 that send its fresh slices DOWN in that step."""
    end = undisturbed(shape).reports[0].operations[STEP][1]
    assert all(moment(shape, 0, end - 1 - i).committing for i in range(NUM_BUCKETS))
    return range(end - NUM_BUCKETS, end)


def saved(shape: Shape, folder: Path) -> Path:
    """A checkpoint from just before that step."""
    ThreadWorld(*shape).run(lambda mesh: Trainee(mesh, FLOAT32, model=Small()).train(range(STEP)).save(folder))
    return folder


@pytest.mark.parametrize("shape", [(1, 2), (1, 3)], ids=mesh_id)
def test_workers_that_lost_a_slice_load_a_checkpoint_in_place_and_go_on_as_if_nothing_had_been(shape, tmp_path):
    folder = saved(shape, tmp_path / "c")
    for operation in gathers(shape):

        def live(mesh: Mesh) -> Snapshot:
            trainee = Trainee(mesh, FLOAT32, model=Small())
            with pytest.raises(StateLost):
                trainee.train(range(NUM_STEPS))
            return trainee.load(folder).train(range(STEP, NUM_STEPS)).snapshot()

        resumed = ThreadWorld(1, shape[1], [Drop(0, operation)]).run(live)
        assert resumed == undisturbed(shape).last


def test_workers_that_lost_a_slice_take_back_a_part_of_their_own_and_go_on_as_if_nothing_had_been():
    for operation in gathers((1, 2)):

        def live(mesh: Mesh) -> Snapshot:
            trainee = Trainee(mesh, FLOAT32, model=Small()).train(range(STEP))
            good = trainee.snapshot()
            with pytest.raises(StateLost):
                trainee.train(range(STEP, NUM_STEPS))
            trainee.model.load_state_dict(good.model)
            trainee.optimizer.load_state_dict(good.optimizer)
            return trainee.train(range(STEP, NUM_STEPS)).snapshot()

        resumed = ThreadWorld(1, 2, [Drop(0, operation)]).run(live)
        assert resumed == undisturbed((1, 2)).last


@pytest.mark.parametrize("shape", [(1, 2), (1, 3), (2, 2)], ids=mesh_id)
def test_survivors_of_a_death_in_the_commit_go_on_from_a_checkpoint_in_a_new_world_with_their_old_models(
    shape, tmp_path
):
    folder = saved(shape, tmp_path / "c")
    run = Run(shape, [Kill(0, gathers(shape)[1])]).go()
    assert isinstance(run.reports[1].error, StateLost)
    models = [report.trainee.model for report in run.reports if report.trainee is not None]

    def live(mesh: Mesh) -> Snapshot:
        trainee = Trainee(mesh, FLOAT32, model=models[mesh.world.rank])
        return trainee.load(folder).train(range(STEP, NUM_STEPS)).snapshot()

    resumed = ThreadWorld(*shape).run(live)
    assert resumed == undisturbed(shape).last


def test_an_island_that_survives_another_s_death_before_the_commit_still_holds_the_whole_state():
    begin, _ = undisturbed((2, 2)).reports[0].operations[STEP]
    run = Run((2, 2), [Kill(0, begin), Kill(1, begin)]).go()
    survivors = run.reports[2:]
    assert all(isinstance(report.error, PeerLost) for report in survivors)
    held = whole([report.trainee.snapshot() for report in survivors if report.trainee is not None])
    assert held == whole([report.snapshots[STEP] for report in undisturbed((2, 2)).reports])


def test_a_commit_that_only_one_worker_finds_cut_short_is_made_good_by_loading_on_all(tmp_path, monkeypatch):
    folder = saved((1, 2), tmp_path / "c")
    land = Gather.land

    def live(mesh: Mesh) -> Snapshot:
        trainee = Trainee(mesh, FLOAT32, model=Small()).train(range(STEP))
        if mesh.world.rank == 0:
            transaction = trainee.optimizer.engine.transaction
            assert isinstance(transaction, Transaction)
            torn = transaction._gather
            monkeypatch.setattr(torn, "land", lambda *_: (_ for _ in ()).throw(RuntimeError("no memory")))
            with pytest.raises(StateLost):
                trainee.train(range(STEP, STEP + 1))
            monkeypatch.setattr(torn, "land", land.__get__(torn))
        else:
            trainee.train(range(STEP, STEP + 1))
        return trainee.load(folder).train(range(STEP, NUM_STEPS)).snapshot()

    assert ThreadWorld(1, 2).run(live) == undisturbed((1, 2)).last
