"""Who is silent and who hangs: judged from what was heard, never from the listener's own delays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.errors import ConfigurationError
from adamesh.membership.messages import Beat
from adamesh.membership.progress import Progress
from adamesh.membership.settings import Patience
from adamesh.membership.silence import Silence


def test_silence_lasts_once_nothing_has_come_for_the_floor():
    silence = Silence(0.5, now=0.0)
    for beat in range(100):
        silence.hear(0.05 * beat)
    assert not silence.lasts(4.95 + 0.5)
    assert silence.lasts(4.95 + 0.51)


@given(st.lists(st.floats(0.01, 3.0), min_size=1, max_size=50))
def test_whoever_is_heard_irregularly_is_waited_for_longer_but_never_for_ever(gaps: list[float]):
    silence, now = Silence(0.5, now=0.0), 0.0
    for gap in gaps:
        now += gap
        silence.hear(now)
    assert 0.5 <= silence.limit_s <= 2.0
    assert silence.limit_s >= min(2.0, 3 * gaps[-1] - 1e-9)  # what has been added up is a little off


def test_a_stall_of_the_listener_is_no_evidence():
    silence = Silence(0.5, now=0.0)
    silence.forgive(stall_s=10.0, now=10.1)
    assert not silence.lasts(10.1)
    assert silence.lasts(12.2)


def test_what_happens_while_programs_are_loaded_says_nothing_about_later():
    silence = Silence(0.5, now=0.0)
    silence.hear(0.9, usual=False)
    silence.forgive(stall_s=0.9, now=1.9, usual=False)
    assert silence.limit_s == 0.5


def test_who_is_often_held_up_itself_waits_longer_for_others():
    silence = Silence(0.5, now=0.0)
    silence.forgive(stall_s=0.3, now=0.4)
    assert not silence.lasts(0.3 + 0.8)
    assert silence.lasts(0.3 + 1.0)
    for beat in range(2000):
        silence.hear(0.4 + 0.05 * beat)
    assert silence.limit_s == 0.5


def beat(step: int, phase: str, waits: bool, moves: int = 0) -> Beat:
    return Beat(0, step, phase, moves, waits, broken=False, leaving=False, process="")


def stuck(phases: dict[str, str], waiting: str, floor_s: float = 1.0, step_s: float = 0.01) -> Progress:
    """Workers that made ten steps and then stand still."""
    progress = Progress(floor_s)
    for step in range(10):
        for name, phase in phases.items():
            progress.take(name, beat(step, phase, name in waiting, moves=step), now=step * step_s)
    return progress


EVERYBODY = dict.fromkeys("abc", 0)


@pytest.mark.parametrize(
    ("phase", "waiting", "hung"),
    [
        ("step", "ac", {"b"}),
        ("step", "abc", set()),
        ("step", "a", {"b", "c"}),
        ("step", "", set()),
        ("saving", "ac", set()),
        ("evaluating", "ac", set()),
    ],
)
def test_only_who_is_waited_for_in_a_step_hangs(phase: str, waiting: str, hung: set[str]):
    progress = stuck({"a": "step", "b": phase, "c": "step"}, waiting)
    assert progress.hung(EVERYBODY, now=1.0) == set()
    assert progress.hung(EVERYBODY, now=2.0) == hung


def test_slow_steps_take_longer_to_look_like_a_hang():
    progress = stuck(dict.fromkeys("abc", "step"), "ac", step_s=1.0)
    assert progress.hung(EVERYBODY, now=9.0 + 19.0) == set()
    assert progress.hung(EVERYBODY, now=9.0 + 21.0) == {"b"}


def test_nobody_hangs_as_long_as_somebody_has_not_been_heard():
    progress = stuck({"a": "step", "b": "step"}, "a")
    assert progress.hung(EVERYBODY, now=9.0) == set()


@pytest.mark.parametrize("name", ["silence_s", "hang_s", "quorum_s"])
@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_patience_is_a_time(name: str, seconds: float):
    with pytest.raises(ConfigurationError, match=name):
        Patience(**{name: seconds})
