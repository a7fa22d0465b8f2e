"""A company of real processes goes on when workers are killed, stopped, cut off, come or go."""

import time
from collections.abc import Sequence

import pytest

from adamesh.membership.settings import Patience
from tests.elastic.crew import Crew


@pytest.mark.parametrize("victims", [(2,), (0,), (0, 1), (1, 3)], ids=str)
def test_killed_workers_are_left_out_and_the_others_go_on(victims: tuple[int, ...]):
    with Crew(4) as crew:
        for victim in victims:
            crew.hands[victim].kill()
        left = [number for number in range(4) if number not in victims]
        assert_formed(crew, left)


def assert_formed(crew: Crew, numbers: Sequence[int], epoch: int = 1) -> None:
    """Sooner or later these founders are the company, from an epoch on."""
    names = tuple(crew.name(number) for number in numbers)
    for number in numbers:
        at = epoch
        while (report := crew.await_report(number, epoch=at)).names != names:
            at = report.epoch + 1


def test_two_workers_that_lose_either_go_on_alone():
    for victim in (0, 1):
        with Crew(2) as crew:
            crew.hands[victim].kill()
            assert_formed(crew, [1 - victim])


@pytest.mark.parametrize("victim", [0, pytest.param(3, marks=pytest.mark.soak)])
def test_a_stopped_worker_is_left_out_and_is_told_when_it_wakes(victim: int):
    with Crew(4) as crew:
        crew.hands[victim].stop()
        left = [number for number in range(4) if number != victim]
        assert_formed(crew, left)
        crew.hands[victim].wake()
        assert "silent" in crew.await_report(victim, "expelled").message
        assert_unmoved(crew, left)


def assert_unmoved(crew: Crew, numbers: Sequence[int]) -> None:
    """No further epoch has begun."""
    time.sleep(0.3)
    epoch = crew.last.epoch
    for number in numbers:
        with pytest.raises(AssertionError, match="has not"):
            crew.await_report(number, epoch=epoch + 1, timeout_s=0.0)


def test_a_newcomer_is_let_in_while_the_others_work():
    with Crew(2) as crew:
        crew.join()
        reports = crew.await_all(range(3), epoch=1)
        assert [report.origins for report in reports] == [(0, 1, None), (0, 1, None), (None, None, None)]
        assert {report.hows for report in reports} == {("joined",), ()}
        crew.hands[0].kill()
        for number in (1, 2):
            report = crew.await_report(number, epoch=2)
            assert report.names == reports[0].names[1:]
            assert report.origins == (1, 2)


def test_who_leaves_is_left_out_and_told_so():
    with Crew(3) as crew:
        crew.tell(1, "leave")
        assert "as it asked" in crew.await_report(1, "expelled").message
        assert_formed(crew, [0, 2])
        assert crew.hands[0].reports[-1].hows == ("left",)


def test_of_two_halves_only_that_of_the_oldest_goes_on():
    with Crew(4, Patience(silence_s=0.2, quorum_s=6.0)) as crew:
        for number in range(4):
            others = [2, 3] if number < 2 else [0, 1]
            crew.tell(number, ("deaf", [crew.name(other) for other in others]))
        assert_formed(crew, [0, 1])
        for number in (2, 3):
            assert "too few" in crew.await_report(number, "quorum lost").message


def test_of_two_that_cannot_hear_each_other_one_goes():
    with Crew(4, Patience(silence_s=0.2, quorum_s=5.0)) as crew:
        crew.tell(1, ("deaf", [crew.name(2)]))
        crew.tell(2, ("deaf", [crew.name(1)]))
        names = crew.await_report(0, epoch=1).names
        left = [number for number in range(4) if crew.name(number) in names]
        assert left in ([0, 1, 3], [0, 2, 3])  # whose silence is noticed first
        assert_formed(crew, left)
        crew.await_report(3 - left[1], "expelled")


def test_a_worker_that_hangs_while_all_others_wait_is_left_out():
    with Crew(3, Patience(hang_s=0.4, quorum_s=5.0)) as crew:
        time.sleep(0.2)
        crew.tell(1, ("hang", 4.0))
        assert_formed(crew, [0, 2])
        assert crew.hands[0].reports[-1].hows == ("hung",)
        crew.await_report(1, "expelled")
