"""Student's t, against tables, closed forms, and chance itself."""

import math
import random
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.tune.statistics import mean_interval, student_t

CONFIDENCE = st.floats(0.01, 0.999)
VALUES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9)


@pytest.mark.parametrize(
    ("freedom", "confidence", "t"),
    [
        *[(1, 0.95, 12.706), (2, 0.95, 4.303), (2, 0.99, 9.925), (3, 0.95, 3.182), (4, 0.9, 2.132), (9, 0.95, 2.262)],
        *[(10, 0.98, 2.764), (29, 0.99, 2.756), (30, 0.95, 2.042)],
    ],
)
def test_t_is_that_of_the_printed_tables(freedom, confidence, t):
    assert student_t(freedom, confidence) == pytest.approx(t, abs=6e-4)


@given(confidence=CONFIDENCE)
def test_t_has_its_closed_forms_for_one_and_two_degrees_and_is_normal_for_many(confidence):
    assert student_t(1, confidence) == pytest.approx(math.tan(math.pi * confidence / 2), rel=1e-9)
    expected = confidence * math.sqrt(2 / (1 - confidence**2))
    assert student_t(2, confidence) == pytest.approx(expected, rel=1e-9)
    normal = NormalDist().inv_cdf((1 + confidence) / 2)
    assert student_t(2000, confidence) == pytest.approx(normal, rel=3e-3)


@given(freedom=st.integers(1, 40), one=CONFIDENCE, other=CONFIDENCE)
def test_more_confidence_needs_a_larger_t_and_more_values_a_smaller_one(freedom, one, other):
    low, high = sorted((one, other))
    assert student_t(freedom, low) <= student_t(freedom, high)
    assert student_t(freedom + 1, high) <= student_t(freedom, high)


@given(values=VALUES, shift=st.floats(-100, 100), confidence=st.floats(0.5, 0.99))
def test_an_interval_moves_with_its_values_and_has_their_mean_in_its_middle(values, shift, confidence):
    here = mean_interval(values, confidence)
    there = mean_interval([value + shift for value in values], confidence)
    assert here.low <= here.mean <= here.high
    assert there.mean == pytest.approx(here.mean + shift, abs=1e-6)
    assert there.half_width == pytest.approx(here.half_width, abs=1e-6, rel=1e-6)


def test_the_true_mean_is_in_as_many_intervals_as_was_promised():
    draw = random.Random(0)
    hits = sum(not mean_interval([draw.gauss(0, 1) for _ in range(3)], 0.9).excludes_zero for _ in range(4000))
    assert hits / 4000 == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / 4000))


def test_one_value_says_nothing_of_noise_and_equal_ones_that_there_is_none():
    assert not mean_interval([3.0], 0.95).excludes_zero
    assert mean_interval([0.1] * 3, 0.95).half_width == 0
    assert mean_interval([0.1] * 3, 0.95).excludes_zero
    assert not mean_interval([0.0] * 3, 0.95).excludes_zero
