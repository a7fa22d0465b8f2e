"""A worker dies at any operation of a run: those who are left end where a run without a death does."""

from functools import cache, partial
from itertools import combinations

import pytest
import torch

import adamesh
from adamesh.comm.faults import Kill
from adamesh.comm.thread_company import ThreadCompanies, ThreadCompany
from adamesh.errors import Expelled, StateLost
from tests.elastic.runner import Setting, Told, distance, run, train

SETTING = Setting()
EACH = pytest.mark.parametrize("stride", [pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1200)]), 11])
"""All operations, which takes minutes; or some of them."""
INT8 = adamesh.Wire(up=adamesh.Int8(), down=adamesh.Int8())
INT4_FEEDBACK = adamesh.Wire(up=adamesh.Feedback(adamesh.Int4()), down=adamesh.Int4())
SIGN = adamesh.Wire(up=adamesh.Feedback(adamesh.Sign()), down=adamesh.Sign())


@cache
def undisturbed(size: int) -> tuple[Told, int]:
    tales, operations = run(size, SETTING)
    assert all(isinstance(tale, Told) and not tale.made_again for tale in tales), tales
    return tales[0], operations[0]


@EACH
@pytest.mark.parametrize("victim", range(3))
def test_whoever_dies_at_whatever_operation_no_step_is_lost_and_none_is_made_twice(victim, stride):
    expected, operations = undisturbed(3)
    for operation in range(3 * victim, operations, stride):
        tales, _ = run(3, SETTING, [Kill(victim, operation)])
        assert isinstance(tales[victim], Exception), operation
        for tale in (tales[rank] for rank in range(3) if rank != victim):
            assert isinstance(tale, Told), (operation, tale)
            assert distance(tale, expected) < 1e-12, operation


@EACH
def test_two_workers_that_die_at_once_are_survived_with_three_copies(stride):
    setting = Setting(redundancy=3)
    expected, operations = undisturbed(4)
    for first, second in combinations(range(4), 2):
        for operation in range(16 + first + second, operations, 4 * stride):
            tales, _ = run(4, setting, [Kill(first, operation), Kill(second, operation)])
            survivors = [tale for rank, tale in enumerate(tales) if rank not in (first, second)]
            for tale in survivors:
                assert isinstance(tale, Told), (first, second, operation, tale)
                assert tale.size == 2
                assert distance(tale, expected) < 1e-12


@EACH
def test_a_worker_that_dies_while_others_regroup_is_survived_as_well(stride):
    """The second one dies at each operation of the regrouping that the first one's death begins."""
    expected, operations = undisturbed(4)
    at = operations // 2
    _, after = run(4, Setting(redundancy=3), [Kill(3, at)])
    regrouping = range(at + 1, min(at + 30, *after[:3]))
    for operation in regrouping[:: (stride + 2) // 3]:
        tales, _ = run(4, Setting(redundancy=3), [Kill(3, at), Kill(1, operation)])
        for tale in (tales[0], tales[2]):
            assert isinstance(tale, Told), (operation, tale)
            assert distance(tale, expected) < 1e-12


def test_a_slice_that_nobody_else_holds_is_lost_and_said_so_on_all_who_are_left():
    setting = Setting(redundancy=1)
    _, operations = undisturbed(3)
    tales, _ = run(3, setting, [Kill(1, operations // 2)])
    for tale in (tales[0], tales[2]):
        assert isinstance(tale, StateLost)
        assert "adamesh.load" in str(tale)
        assert "redundancy" in str(tale)


def test_two_neighbours_that_die_at_once_take_a_slice_with_them_that_two_copies_do_not_outlive():
    _, operations = undisturbed(4)
    at = operations // 2
    for first in range(4):
        tales, _ = run(4, Setting(redundancy=2), [Kill(first, at), Kill((first + 1) % 4, at)])
        survivors = [tale for rank, tale in enumerate(tales) if rank not in (first, (first + 1) % 4)]
        assert all(isinstance(tale, StateLost) for tale in survivors), survivors


@pytest.mark.parametrize(
    "setting",
    [
        Setting(rule=adamesh.NAdam),
        Setting(rule=partial(adamesh.AdamW, amsgrad=True)),
        Setting(rule=partial(adamesh.SGD, momentum=0.9)),
        Setting(dtype=torch.float32),
        Setting(dtype=torch.bfloat16),
    ],
    ids=["nadam", "amsgrad", "sgd", "float32", "bfloat16"],
)
@EACH
def test_every_rule_and_precision_outlives_a_death_in_every_part_of_a_step(setting, stride):
    tales, operations = run(3, setting)
    expected, tolerance = tales[0], {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[setting.dtype]
    for operation in range(12, operations[0], 2 * stride):
        survived, _ = run(3, setting, [Kill(1, operation)])
        for tale in (survived[0], survived[2]):
            assert isinstance(tale, Told), (operation, tale)
            assert distance(tale, expected) < tolerance, operation


@pytest.mark.parametrize("wire", [INT8, INT4_FEEDBACK, SIGN], ids=["int8", "int4 with feedback", "sign with feedback"])
@EACH
def test_coded_steps_outlive_a_death_and_replicas_stay_alike_to_the_bit(wire, stride):
    setting = Setting(wire=wire, dtype=torch.float32, steps=5)
    tales, operations = run(3, setting)
    for operation in range(12, operations[0], 2 * stride):
        survived, _ = run(3, setting, [Kill(2, operation)])
        first, second = survived[:2]
        assert isinstance(first, Told), (operation, first)
        assert isinstance(second, Told), (operation, second)
        assert all(torch.equal(first.values[name], second.values[name]) for name in first.values)
        assert distance(first, tales[0]) < 0.1


def test_a_newcomer_takes_its_part_of_the_state_and_of_the_batches():
    expected, _ = undisturbed(2)
    companies = ThreadCompanies(2, newcomers=1)

    def live(company: ThreadCompany) -> Told:
        return train(company, SETTING, lambda step: companies.call(2) if step == 1 else None)

    tales = companies.run(live)
    for tale in tales:
        assert isinstance(tale, Told), tale
        assert tale.size == 3
        assert distance(tale, expected) < 1e-12
        assert not tale.made_again


def test_who_asks_to_go_is_let_go_after_a_step_and_takes_nothing_along():
    expected, _ = undisturbed(3)
    companies = ThreadCompanies(3)

    def live(company: ThreadCompany) -> Told:
        return train(company, Setting(redundancy=1), lambda step: companies.dismiss(1) if step == 2 else None)

    tales = companies.run(live)
    assert isinstance(tales[1], Expelled)
    for tale in (tales[0], tales[2]):
        assert isinstance(tale, Told), tale
        assert tale.size == 2
        assert distance(tale, expected) < 1e-12


def test_an_island_that_comes_takes_the_state_of_another():
    setting = Setting(steps=9, sync=adamesh.DiLoCo(3), redundancy=1, own_batches=True, max_grad_norm=None)
    expected = run(2, setting)[0][0]
    companies = ThreadCompanies(2, newcomers=1)

    def live(company: ThreadCompany) -> Told:
        return train(company, setting, lambda step: companies.call(2) if step == 2 else None)

    for tale in companies.run(live):
        assert isinstance(tale, Told), tale
        assert tale.size == 3
        assert distance(tale, expected) < 1e-12
