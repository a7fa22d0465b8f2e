"""Workers that are late or die change nothing that was committed."""

import pytest
import torch

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import Delay, Kill, ThreadWorld
from adamesh.errors import AdameshError, StateLost
from tests.wire.world import CODECS, Worker, alike, both_ways, train

INT4 = both_ways(CODECS["int4"])


@pytest.mark.parametrize("shape", [(1, 3), (2, 2)], ids=str)
def test_who_is_late_changes_nothing(shape):
    undisturbed = train(shape, INT4)
    faults = [Delay(rank, operation, 0.002) for rank in range(3) for operation in range(3 + rank, 40, 5)]
    assert all(alike(a, b) for a, b in zip(undisturbed, train(shape, INT4, faults=[*faults]), strict=True))


def test_a_death_before_the_commit_leaves_parameters_and_residuals_as_they_were():
    world = ThreadWorld(2, 2)
    world.run(lambda mesh: Worker(mesh, INT4).train(range(2)))
    begin = world.num_operations[0]
    world.run(lambda mesh: Worker(mesh, INT4).train(range(3)))
    end = world.num_operations[0]
    outcomes = set()
    for operation in range(begin, end):
        reports: dict[int, tuple] = {}

        def law(mesh: Mesh, reports: dict[int, tuple] = reports) -> None:
            worker = Worker(mesh, INT4).train(range(2))
            before = worker.values, worker.residuals
            try:
                worker.train(range(2, 3))
            except AdameshError as error:
                kept = (
                    alike(worker.values, before[0]) and alike(worker.residuals, before[1])
                    if (not isinstance(error, StateLost))
                    else None
                )
                reports[mesh.world.rank] = (type(error), kept)

        ThreadWorld(2, 2, faults=[Kill(3, operation)]).run(law, return_exceptions=True)
        assert all(kept is not False for _, kept in reports.values())
        outcomes |= {kind for kind, _ in reports.values()}
    assert len(outcomes) > 1  # before the vote a loss, after it a torn state


def test_workers_with_different_wires_are_told_before_any_byte_moves():
    def law(mesh: Mesh) -> None:
        wire = INT4 if mesh.world.rank else adamesh.Wire(up=adamesh.Int8())
        with pytest.raises(adamesh.AdameshError, match=r"worker 1 was given Wire.*Int4.*would not understand"):
            Worker(mesh, wire)

    ThreadWorld(1, 2).run(law)


def test_workers_with_different_loss_scales_are_told():
    def law(mesh: Mesh) -> None:
        worker = Worker(mesh, INT4)
        worker.backward(0)
        with pytest.raises(adamesh.AdameshError, match="loss scale"):
            worker.optimizer.step_scaled(2.0 + mesh.world.rank)

    ThreadWorld(1, 2).run(law)


def test_processes_agree_with_threads_to_the_bit(pool):
    of_threads = train((1, 2), INT4, steps=4)
    of_processes = pool.run(2, in_process)
    assert all(alike(a, b) for a, b in zip(of_threads, of_processes, strict=True))


def in_process():
    from adamesh.comm.process_group import process_mesh

    mesh = process_mesh(None, torch.device("cpu"), 20.0)
    return Worker(mesh, INT4).train(range(4)).values
