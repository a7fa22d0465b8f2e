from math import exp, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

import adamesh
from adamesh.engine.window import Window


def filled(*values: float, length: int = 50, least: int = 3, threshold: float = 10.0, floor: float = 2.0) -> Window:
    window = Window(length, least, threshold, floor)
    for value in values:
        window.add(value)
    return window


def test_nothing_is_judged_before_there_are_enough():
    assert filled(1.0, 1.0).limit == inf


def test_a_constant_is_judged_by_the_floor():
    assert filled(3.0, 3.0, 3.0).limit == pytest.approx(6.0)


def test_the_limit_is_the_median_times_the_spread_to_the_threshold():
    assert filled(exp(-1.0), exp(0.0), exp(1.0), threshold=4.0).limit == pytest.approx(exp(4.0))


@given(st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=60), st.floats(1e-6, 1e6))
def test_the_limit_scales_with_what_is_measured(values, factor):
    scaled = filled(*(factor * v for v in values))
    assert scaled.limit == pytest.approx(factor * filled(*values).limit, rel=1e-6)


def test_one_outlier_does_not_move_the_limit():
    usual = [1.0, 1.1, 0.9] * 10
    assert filled(*usual, 1e9).limit == pytest.approx(filled(*usual).limit, rel=0.1)


@given(st.lists(st.floats(-1, 1e3), min_size=6, max_size=40))
def test_only_the_last_ones_count(values):
    kept = Window(5, 3, 10.0, 2.0)
    kept.replace(values)
    assert list(kept.values) == values[-5:]
    assert kept.limit == filled(*values[-5:]).limit


def test_negative_losses_have_no_scale():
    assert filled(-1.0, 2.0, 3.0).limit == inf


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0}, {"floor": 0.5}, {"window": 2}, {"warmup_steps": 101}, {"check_every": -1}, {"skips": 0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=rf"guard\.{next(iter(wrong))} = "):
        adamesh.Guard(**wrong)
