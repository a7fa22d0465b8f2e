"""A worker that dies, or a message that gets lost, at any operation of a run: one clear error, and nobody hangs."""

from collections.abc import Callable

import pytest

from adamesh.comm.threads import Drop, Fault, Kill
from adamesh.errors import AdameshError, CommunicationTimeout, PeerLost, StateLost
from tests.faults.training import (
    MESHES,
    NUM_STEPS,
    Report,
    Run,
    Shape,
    island,
    mesh_id,
    moment,
    points,
    undisturbed,
)
from tests.thorough import some


def expected_end(shape: Shape, fault: Fault, rank: int, silence: type[AdameshError]) -> tuple[int, type | None]:
    """How many steps a rank commits, and what it raises then, if something happens to another (or to its message)."""
    when = moment(shape, fault.rank, fault.operation)
    if not when.committing:
        return max(when.step, 0), silence
    if island(shape, rank) == island(shape, fault.rank):
        return when.step, StateLost
    # The other islands have what they need to commit; they notice in the next step, if there is one.
    return when.step + 1, silence if when.step + 1 < NUM_STEPS else None


def check(run: Run, fault: Fault, rank: int, silence: type[AdameshError], tmp_path) -> None:
    report = run.reports[rank]
    num_committed, error = expected_end(run.shape, fault, rank, silence)
    assert (report.num_committed, type(report.error)) == (num_committed, error or type(None)), (fault, rank)
    if report.trainee is None or error is None:
        return
    if error is not StateLost:
        expected = undisturbed(run.shape).reports[rank].snapshots[num_committed]
        assert report.trainee.snapshot() == expected, (fault, rank)
    refuses_to_go_on(report, error, tmp_path)


def refuses_to_go_on(report: Report, error: type[AdameshError], tmp_path) -> None:
    """In the same words, without asking the others, who are not there any more."""
    assert report.trainee is not None
    trainee = report.trainee
    calls: list[Callable[[], object]] = [trainee.optimizer.step, lambda: trainee.save(tmp_path / "refused")]
    if error is StateLost:
        calls += [trainee.optimizer.state_dict, trainee.optimizer.full_state_dict]
    for call in calls:
        with pytest.raises(error) as again:
            call()
        assert str(again.value) == str(report.error)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("shape", MESHES, ids=mesh_id)
def test_a_worker_killed_at_any_operation_is_missed_by_all_others_at_the_right_step(shape, tmp_path):
    for victim, operation in some(points(shape), 30):
        fault = Kill(victim, operation)
        run = Run(shape, [fault]).go()
        for rank in range(len(run.reports)):
            if rank != victim:
                check(run, fault, rank, PeerLost, tmp_path)


@pytest.mark.parametrize("shape", MESHES, ids=mesh_id)
def test_a_message_lost_at_any_operation_is_missed_by_all_at_the_right_step(shape, tmp_path):
    for victim, operation in some(points(shape), 30):
        fault = Drop(victim, operation)
        run = Run(shape, [fault]).go()
        for rank in range(len(run.reports)):
            check(run, fault, rank, CommunicationTimeout, tmp_path)
