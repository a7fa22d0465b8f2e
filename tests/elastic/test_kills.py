"""A worker dies at any operation of a run: those who are left end where a run without a death does."""

from functools import cache

import pytest

from adamesh.comm.faults import Kill
from tests.elastic.runner import Setting, Told, distance, run

SETTING = Setting()


@cache
def undisturbed(size: int) -> tuple[Told, int]:
    tales, operations = run(size, SETTING)
    assert all(isinstance(tale, Told) and not tale.made_again for tale in tales), tales
    return tales[0], operations[0]


@pytest.mark.parametrize("victim", range(3))
def test_whoever_dies_at_whatever_operation_no_step_is_lost_and_none_is_made_twice(victim):
    expected, operations = undisturbed(3)
    for operation in range(operations):
        tales, _ = run(3, SETTING, [Kill(victim, operation)])
        assert isinstance(tales[victim], Exception), operation
        for tale in (tales[rank] for rank in range(3) if rank != victim):
            assert isinstance(tale, Told), (operation, tale)
            assert distance(tale, expected) < 1e-12, operation
