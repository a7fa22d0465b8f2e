"""What is said of a worker that failed, and which of several failures is the cause."""

import json
import signal
from pathlib import Path

import pytest

from adamesh.errors import CommunicationTimeout, ConfigurationError, DataError, PeerLost, StepOutOfSync
from adamesh.train.failure import describe, exited, read, root_cause, write

GRACE_S = 30


def raised(error, rank=0, time_s=0.0, step=None):
    """The record of an error that was really raised here."""
    try:
        raise error
    except Exception as caught:
        if step is not None:
            caught.add_note(f"in step {step}")
        return describe(caught, rank=rank, time_s=time_s)


def test_the_line_names_rank_step_error_and_place():
    line = raised(ValueError("label 11 is\n  out of range"), rank=1, step=17).line()
    assert line.startswith("worker 1 failed at step 17: ValueError: label 11 is out of range (")
    assert "test_failure.py:" in line


def test_the_place_is_the_users_line_not_the_librarys():
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    file, _ = describe(caught.value, rank=0, time_s=0.0).place.split(":")
    assert file.endswith(Path(__file__).name)


def test_an_error_without_a_message_is_named_by_its_class():
    assert raised(KeyError()).line().startswith("worker 0 failed: KeyError (")


@pytest.mark.parametrize("kind", [ConfigurationError, DataError])
def test_what_the_user_has_to_put_right_before_training_is_said_without_a_worker(kind):
    assert raised(kind("lr = -1: must be positive")).line() == "lr = -1: must be positive"
    assert "worker 0" in raised(kind("lr = -1: must be positive"), step=4).line()


def test_a_record_survives_the_file_and_a_foreign_one_is_none(tmp_path):
    failure = raised(ValueError("no"), rank=2, time_s=12.5, step=3)
    write(failure, tmp_path / "error.json", "the traceback")
    assert read(json.loads((tmp_path / "error.json").read_text())) == failure
    assert read({"message": "killed"}) is None
    assert read({"message": {"message": "no", "extraInfo": {"py_callstack": ""}}}) is None


def test_a_death_by_signal_is_named():
    assert exited(1, -signal.SIGSEGV, 0.0).line() == "worker 1 was killed (SIGSEGV)"
    assert exited(1, -signal.SIGKILL, 0.0).line().startswith("worker 1 was killed (SIGKILL): ")
    assert exited(1, 3, 0.0).line() == "worker 1 exited with code 3"


CONSEQUENCES = [
    PeerLost("worker 1 is gone"),
    CommunicationTimeout("worker 1 did not come"),
    StepOutOfSync("worker 1 failed"),
    RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:16259"),
]


@pytest.mark.parametrize("consequence", CONSEQUENCES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_cause_of_a_lost_peer_even_if_recorded_later(consequence):
    cause = raised(ValueError("no"), rank=1, time_s=2.0)
    lost = raised(consequence, rank=0, time_s=1.0)
    assert root_cause([lost, cause], GRACE_S) is cause


def test_the_earliest_of_two_errors_is_the_cause():
    late, early = raised(ValueError(), rank=0, time_s=2.0), raised(ValueError(), rank=1, time_s=1.0)
    assert root_cause([late, early], GRACE_S) is early


def test_a_killed_worker_is_the_cause_of_a_lost_peer():
    killed = exited(1, -signal.SIGKILL, 1.0)
    assert root_cause([raised(PeerLost("gone"), time_s=1.5), killed], GRACE_S) is killed


def test_a_worker_that_the_launcher_ended_is_not_the_cause():
    lost = raised(PeerLost("gone"), rank=2, time_s=1.0)
    ended, killed = exited(0, -signal.SIGTERM, 1.0), exited(1, -signal.SIGKILL, 1.0 + GRACE_S)
    assert root_cause([ended, killed, lost], GRACE_S) is lost


def test_a_long_message_is_cut():
    assert len(raised(ValueError("x" * 10_000)).message) < 1_000
