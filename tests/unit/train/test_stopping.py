import signal

from adamesh.train.stopping import Interruption, Plateau


def first_settled(plateau, norms):
    return next((step for step, norm in enumerate(norms) if plateau.settled(norm)), None)


def test_a_norm_that_stays_within_the_tolerance_for_all_the_steps_has_settled():
    norms = [8.0, 4.0, 2.0, 1.00, 1.01, 0.995, 1.0, 1.0]
    assert first_settled(Plateau(tolerance=0.02, steps=4), norms) == 6


def test_a_norm_that_keeps_falling_has_not_settled_however_small_it_is():
    assert first_settled(Plateau(tolerance=0.02, steps=4), [1e-9 * 0.9**step for step in range(200)]) is None


def test_a_gradient_that_is_exactly_zero_has_settled():
    assert first_settled(Plateau(tolerance=1e-6, steps=3), [1.0, 0.0, 0.0, 0.0]) == 3


def test_without_a_tolerance_nothing_settles_and_nothing_is_kept():
    plateau = Plateau(tolerance=None, steps=3)
    assert first_settled(plateau, [1.0] * 10) is None
    assert plateau.recent == []


def test_a_plateau_goes_on_from_what_its_checkpoint_kept():
    norms = [3.0, 1.0, 1.0, 1.0, 1.0]
    whole = Plateau(tolerance=0.1, steps=4)
    assert first_settled(whole, norms) == 4
    before = Plateau(tolerance=0.1, steps=4)
    assert first_settled(before, norms[:3]) is None
    assert first_settled(Plateau(0.1, 4, before.recent), norms[3:]) == 1


def test_a_signal_only_asks_and_the_old_handlers_come_back():
    old = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        assert not interruption.requested
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == old
