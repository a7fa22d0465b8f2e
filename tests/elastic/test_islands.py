"""Workers that step alone and agree every few steps, when one of them dies."""

import pytest
import torch

import adamesh
from adamesh.comm.faults import Kill
from adamesh.sync.outer import SGD
from tests.elastic.runner import Setting, Told, distance, run

PERIOD = 3
SCHEDULES = {
    "every-3": adamesh.EveryH(PERIOD),
    "des-loc": adamesh.EveryH(PERIOD, exp_avg=2, exp_avg_sq=3),
    "diloco": adamesh.DiLoCo(PERIOD),
    "diloco by averages": adamesh.DiLoCo(PERIOD, outer=SGD(lr=1.0)),
    "streaming": adamesh.DiLoCo(PERIOD, fragments=3, delay=1, blend=0.5),
    "int4": adamesh.DiLoCo(PERIOD, codec=adamesh.Feedback(adamesh.Int4())),
}

EACH = pytest.mark.parametrize("stride", [pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]), 13])
"""All operations, which takes minutes; or some of them."""


@EACH
@pytest.mark.parametrize("name", SCHEDULES)
def test_islands_outlive_a_death_at_any_operation_and_agree_again(name, stride):
    setting = Setting(steps=3 * PERIOD, sync=SCHEDULES[name], redundancy=1, max_grad_norm=None)
    _, operations = run(3, setting)
    for operation in range(4, operations[0], stride):
        tales, _ = run(3, setting, [Kill(1, operation)])
        first, second = tales[0], tales[2]
        assert isinstance(first, Told), (operation, first)
        assert isinstance(second, Told), (operation, second)
        assert first.size == 2
        if name != "streaming":  # where fragments are still on their way at the end
            same = all(torch.equal(first.values[n], second.values[n]) for n in first.values)
            assert same, operation


@EACH
@pytest.mark.parametrize("name", SCHEDULES)
def test_where_all_islands_see_the_same_a_death_changes_nothing(name, stride):
    setting = Setting(steps=3 * PERIOD, sync=SCHEDULES[name], redundancy=1, own_batches=True, max_grad_norm=None)
    tales, operations = run(3, setting)
    tolerance = 0.05 if name in ("int4", "streaming") else 1e-12  # what was on its way, or held back, is begun afresh
    for operation in range(9, operations[0], stride):
        survived, _ = run(3, setting, [Kill(2, operation)])
        assert isinstance(survived[0], Told), (operation, survived[0])
        assert distance(survived[0], tales[0]) < tolerance, operation
