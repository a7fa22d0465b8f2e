"""Workers that are guarded, and lost: what is usual is known to those who are left."""

from typing import Any

from adamesh import Guard
from adamesh.comm.faults import Kill
from tests.elastic.runner import Setting, Told, distance, run

SETTING = Setting(steps=6, guard=Guard(warmup_steps=3, check_every=2))


def remembered(tale: Told) -> list[float]:
    transaction: Any = tale.optimizer.engine.transaction
    return list(transaction.watch.norms.values)


def test_whoever_is_left_judges_by_the_steps_that_were_made_before():
    tales, operations = run(3, SETTING)
    expected = tales[0]
    assert len(remembered(expected)) == 6
    for operation in range(operations[1] // 3, operations[1], 7):
        tales, _ = run(3, SETTING, [Kill(1, operation)])
        left = [tales[0], tales[2]]
        assert all(distance(tale, expected) < 1e-12 for tale in left), operation
        assert remembered(left[0]) == remembered(left[1]), operation
        assert len(remembered(left[0])) >= 5, operation
