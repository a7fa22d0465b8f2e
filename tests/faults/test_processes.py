"""A process that is killed in the middle of training, really: the others are told within seconds."""

import os
import signal
import time
from typing import Any

import pytest
import torch

from adamesh.comm.process_group import process_mesh
from adamesh.errors import AdameshError
from tests.checkpoint.trainee import Snapshot, Trainee
from tests.faults.training import FLOAT32, Run, Small
from tests.process_pool import ProcessPool, WorkerDied

STEP, VICTIM = 2, 1
SECONDS = 5.0


def die(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def survive(in_commit: bool) -> tuple[str, str, float, Snapshot, Snapshot | None]:
    """What a survivor is told, how long it took, and what it holds before and after."""
    mesh = process_mesh(None, torch.device("cpu"), timeout_s=20.0)
    trainee = Trainee(mesh, FLOAT32, model=Small()).train(range(STEP))
    before = trainee.snapshot()
    trainee.backward(STEP)
    if mesh.world.rank == VICTIM and in_commit:
        trainee.optimizer.engine.transaction.shards[1].update = die  # type: ignore[method-assign, assignment]
    elif mesh.world.rank == VICTIM:
        die()
    begun = time.monotonic()
    try:
        trainee.optimizer.step()
    except AdameshError as error:
        seconds = time.monotonic() - begun
        return type(error).__name__, str(error), seconds, before, None if in_commit else trainee.snapshot()
    raise AssertionError("a step without one of its workers")


@pytest.mark.parametrize(
    ("in_commit", "error"), [(False, "PeerLost"), (True, "StateLost")], ids=["before", "in commit"]
)
def test_survivors_of_a_killed_process_are_told_within_seconds_and_keep_their_last_commit(
    pool: ProcessPool, in_commit: bool, error: str
):
    results = pool.run(3, survive, in_commit, return_exceptions=True)
    assert isinstance(results.pop(VICTIM), WorkerDied)
    for name, message, seconds, before, after in results:
        assert name == error, message
        assert "another worker died or left" in message
        assert seconds < SECONDS
        assert after == (None if in_commit else before)


def test_processes_and_threads_take_the_same_path_to_the_bit(pool: ProcessPool):
    assert pool.run(3, train_in_process) == Run((1, 3)).go().last


def train_in_process() -> Snapshot:
    mesh = process_mesh(None, torch.device("cpu"), timeout_s=20.0)
    return Trainee(mesh, FLOAT32, model=Small()).train(range(3)).snapshot()
