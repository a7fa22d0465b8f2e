"""Who is late changes nothing; who is lost leaves every other worker with a whole state, and the truth about it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import Delay, Fault, Kill, ThreadWorld
from adamesh.errors import PeerLost, StateLost, StepOutOfSync
from adamesh.sync.base import Schedule
from tests.sync.world import Islander, alike

WORLDS = [(2, 1), (2, 2), (3, 1)]
SCHEDULES: dict[str, Schedule] = {
    "every-2": adamesh.EveryH(2, exp_avg=2),
    "streaming": adamesh.DiLoCo(3, fragments=2, delay=2, codec=adamesh.Feedback(adamesh.Int8())),
    "stale": adamesh.Stale(2),
}
NUM_STEPS = 4
SECONDS = 0.002


@dataclass
class Report:
    """What one worker saw."""

    own: list[dict[str, Tensor]] = field(default_factory=list)
    """After each step, before islands agreed on anything."""
    values: list[dict[str, Tensor]] = field(default_factory=list)
    """At the end of each step."""
    islander: Islander | None = None
    error: BaseException | None = None


@dataclass
class Run:
    reports: Sequence[Report]
    num_operations: Sequence[int]
    built: Sequence[int]
    """Operations until the optimizer was built."""


def go(shape: tuple[int, int], name: str, faults: Sequence[Fault] = ()) -> Run:
    world = ThreadWorld(*shape, faults=faults)
    reports, built = [Report() for _ in range(world.size)], [0] * world.size

    def live(mesh: Mesh) -> None:
        report = reports[mesh.world.rank]
        try:
            islander = report.islander = Islander(mesh, SCHEDULES[name], options={"bucket_mb": 25})
            built[mesh.world.rank] = world.num_operations[mesh.world.rank]
            agreement = islander.optimizer.engine.transaction.agreement
            run = agreement.run

            def remember(*args):
                report.own.append(islander.values)
                run(*args)

            agreement.run = remember
            for step in range(NUM_STEPS):
                report.values.append(islander.step(step).values)
        except BaseException as error:
            report.error = error

    world.run(live)
    return Run(reports, world.num_operations, built)


@cache
def undisturbed(shape: tuple[int, int], name: str) -> Run:
    run = go(shape, name)
    assert [report.error for report in run.reports] == [None] * len(run.reports)
    return run


def points(shape: tuple[int, int], name: str) -> list[tuple[int, int]]:
    run = undisturbed(shape, name)
    return [(rank, op) for rank, end in enumerate(run.num_operations) for op in range(run.built[rank], end)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", WORLDS)
@settings(max_examples=4)
@given(data=st.data())
def test_any_ranks_late_at_any_operations_change_nothing(shape, name, data):
    late = st.builds(
        lambda point, seconds: Delay(point[0], point[1], seconds),
        st.sampled_from(points(shape, name)),
        st.floats(0, 3 * SECONDS),
    )
    delays = data.draw(st.lists(late, max_size=12, unique_by=lambda delay: (delay.rank, delay.operation)))
    for found, expected in zip(go(shape, name, delays).reports, undisturbed(shape, name).reports, strict=True):
        assert found.error is None
        assert alike(found.values[-1], expected.values[-1])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("shape", WORLDS)
def test_whoever_survives_the_loss_of_another_has_a_whole_state_and_says_which(shape, name):
    told = set()
    for victim, operation in points(shape, name)[:: 2 * shape[0] * shape[1] - 3]:
        run = go(shape, name, [Kill(victim, operation)])
        for rank, report in enumerate(run.reports):
            if rank == victim or report.error is None:
                continue
            assert isinstance(report.error, PeerLost | StateLost), (victim, operation, report.error)
            told.add(type(report.error))
            islander = report.islander
            assert islander is not None
            with pytest.raises(type(report.error)):
                islander.optimizer.step()
            if isinstance(report.error, StateLost):
                continue
            before = undisturbed(shape, name).reports[rank]
            number = islander.optimizer.engine.transaction.step_number
            assert ("was made" in str(report.error)) == (len(report.own) > len(report.values))
            whole = [before.values[number - 1], before.own[number - 1]] if number else [islander.values]
            assert any(alike(islander.values, values) for values in whole)
    assert PeerLost in told


def test_an_error_of_ones_own_in_the_exchange_is_told_to_all_and_changes_nothing():
    def law(mesh):
        islander = Islander(mesh, adamesh.EveryH(2))
        averaging = islander.optimizer.engine.transaction.agreement.averaging
        islander.step(0)
        if mesh.world.rank == 1:
            averaging._apart = lambda: 1 / 0
        with pytest.raises(ZeroDivisionError if mesh.world.rank == 1 else StepOutOfSync):
            islander.step(1)
        return islander.values

    def alone(mesh):
        return Islander(mesh, adamesh.EveryH(9)).train(range(2)).values

    for values, expected in zip(ThreadWorld(3, 1).run(law), ThreadWorld(3, 1).run(alone), strict=True):
        assert alike(values, expected)
