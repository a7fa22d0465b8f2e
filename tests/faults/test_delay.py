"""Who is late, where, and by how much never changes the result."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamesh.comm.threads import Delay
from tests.faults.training import MESHES, Run, mesh_id, points, undisturbed
from tests.thorough import some

SECONDS = 0.002  # several times what a step of this model takes


def check(shape, delays):
    run = Run(shape, delays).go()
    assert run.errors == [None] * len(run.reports)
    assert run.last == undisturbed(shape).last, delays


@pytest.mark.parametrize("shape", MESHES, ids=mesh_id)
def test_one_rank_late_at_any_operation_changes_nothing(shape):
    for rank, operation in some(points(shape), 30):
        check(shape, [Delay(rank, operation, SECONDS)])


@pytest.mark.parametrize("shape", MESHES, ids=mesh_id)
@settings(max_examples=15)
@given(data=st.data())
def test_any_ranks_late_at_any_operations_change_nothing(shape, data):
    late = st.builds(
        lambda point, seconds: Delay(point[0], point[1], seconds),
        st.sampled_from(points(shape)),
        st.floats(0, 3 * SECONDS),
    )
    check(shape, data.draw(st.lists(late, max_size=12, unique_by=lambda delay: (delay.rank, delay.operation))))
