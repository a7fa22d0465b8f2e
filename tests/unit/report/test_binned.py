"""Curves in bounded memory."""

from math import inf, isclose, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.report.binned import Binned


def filled(values, capacity=8):
    table = Binned(capacity)
    for step, value in enumerate(values, start=1):
        table.add({"step": step, "loss": value})
    return table


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=100))
def test_extremes_sums_and_what_is_not_finite_are_those_of_all_values_however_many(values):
    column = filled(values).columns["loss"]
    finite = [value for value in values if value is not None]
    assert len(column.total) <= 8
    assert min(column.low) == min(finite, default=inf)
    assert max(column.high) == max(finite, default=-inf)
    assert sum(column.count) == len(finite)
    assert sum(column.bad) == len(values) - len(finite)
    assert isclose(sum(column.total), sum(finite), abs_tol=1e-6)


def test_few_values_are_kept_as_they_are():
    told = filled([3.0, None, 1.0]).since(-1, 0)
    assert told["columns"]["loss"] == {"mean": [3, None, 1], "bad": [0, 1, 0]}
    assert told["columns"]["step"] == {"mean": [1, 2, 3]}
    assert (told["start"], told["width"]) == (0, 1)


def test_bins_of_several_tell_their_extremes():
    told = filled([5.0, 1.0, 2.0, 4.0, 3.0, 3.0], capacity=4).since(-1, 0)
    assert told["width"] == 2
    assert told["columns"]["loss"] == {"mean": [3, 3, 3], "low": [1, 2, 3], "high": [5, 4, 3]}


@pytest.mark.parametrize("bad", [nan, inf, -inf, None])
def test_what_is_not_finite_is_counted_and_not_averaged(bad):
    column = filled([1.0, bad, 3.0] * 6).columns["loss"]
    assert sum(column.bad) == 6
    assert max(column.high) == 3.0


@given(st.lists(st.floats(0, 1), max_size=60), st.lists(st.integers(0, 60), max_size=6))
def test_a_reader_of_increments_has_what_a_reader_of_everything_has(values, looks):
    table, generation = Binned(8), -1
    seen: list[float] = []
    for step, value in enumerate(values, start=1):
        table.add({"step": step, "loss": value})
        if step in looks or step == len(values):
            news = table.since(generation, len(seen))
            seen = seen[: news["start"]] + news["columns"]["loss"]["mean"]
            generation = news["generation"]
    assert seen == (table.since(-1, 0)["columns"]["loss"]["mean"] if values else [])


def test_an_increment_is_the_last_bin_and_what_came_after():
    table = filled([1.0, 2.0, 3.0])
    table.add({"step": 4, "loss": 4.0})
    news = table.since(table.generation, 3)
    assert news["start"] == 2
    assert news["columns"]["loss"]["mean"] == [3, 4]


def test_a_step_that_was_made_again_takes_the_place_of_what_came_after_it():
    table = filled([1.0, 2.0, 3.0, 4.0])
    before = table.generation
    table.add({"step": 3, "loss": 9.0})
    assert table.since(before, 4)["columns"]["loss"]["mean"] == [1, 2, 9]


def test_a_key_that_comes_later_has_nothing_before():
    table = filled([1.0, 2.0])
    table.add({"step": 3, "loss": 3.0, "divergence": 0.5})
    assert table.since(-1, 0)["columns"]["divergence"]["mean"] == [None, None, 0.5]


def test_keys_without_end_are_not_kept():
    table = Binned(most_keys=4)
    for step in range(1, 50):
        table.add({"step": step, f"key{step}": 1.0})
    assert len(table.columns) == 4
