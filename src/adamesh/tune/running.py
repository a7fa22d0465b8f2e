"""Trials that run now: each a run of its own, in processes of its own, asked to save and end if it must."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adamesh.train.folder import begin_run
from adamesh.tune.arms import Trial

__all__ = [
    "LOOK_EVERY_S",
    "Running",
    "Start",
    "begun",
    "cores",
    "end",
    "interruptible",
    "jobs_at_once",
    "start_trial",
    "steps_of",
]

LOOK_EVERY_S = 0.2
_LAST_LINE_BYTES = 4096

Start = Callable[[Trial, int], "subprocess.Popen[bytes]"]
"""Starts a trial that is one of so many at once."""


@dataclass
class Running:
    """A trial, and the process that follows its workers."""

    trial: Trial
    process: "subprocess.Popen[bytes]"


def cores() -> int:
    """Of this machine, that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jobs_at_once(most_workers: int, num_cores: int, *, timed: bool) -> int:
    """How many trials the machine has cores for, one for each worker; one where the clock decides.

    Args:
        most_workers: of a trial.
        num_cores: of the machine.
        timed: trials have a budget in seconds.
    """
    return 1 if timed else max(1, num_cores // most_workers)


def start_trial(trial: Trial, jobs: int) -> "subprocess.Popen[bytes]":
    """The trial as a run of its own: what it prints goes to ``output.log``, Ctrl-C does not reach it."""
    threads = str(max(1, cores() // (trial.config.nproc * jobs)))
    command = [sys.executable, "-m", "adamesh.train.process", "adamesh.tune.trial", str(trial.folder)]
    with (trial.folder / "output.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"OMP_NUM_THREADS": threads} | os.environ,
        )


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM is an interruption too; and so is SIGINT where a shell has told its background jobs to ignore it."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def begun(trial: Trial, jobs: int, start: Start) -> Running:
    """Start a trial, or start it again, as one of ``jobs`` at once.

    Raises:
        ConfigurationError: its folder holds something else, or cannot be written.
    """
    if not (trial.folder / "config.toml").is_file():
        begin_run(trial.config, trial.config.nproc, datetime.now())
    return Running(trial, start(trial, jobs))


def end(running: Sequence[Running]) -> None:
    """Ask the trials to save and end, and wait; whoever does not want to wait interrupts again."""
    for one in running:
        one.process.send_signal(signal.SIGINT)
    for one in running:
        try:
            one.process.wait()
        except KeyboardInterrupt:
            one.process.send_signal(signal.SIGINT)  # the second one kills the workers
            one.process.wait()


def steps_of(running: Sequence[Running]) -> dict[str, float]:
    """How far the trials are that run now, for the display."""
    found: dict[str, float] = {}
    for number, one in enumerate(running, start=1):
        step = _last_step(one.trial.folder / "metrics.jsonl")
        if step is not None:
            found["at step" if len(running) == 1 else f"({number}) at step"] = step
    return found


def _last_step(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_LINE_BYTES))
            step = json.loads(file.read().splitlines()[-1])["step"]
    except (OSError, ValueError, IndexError, KeyError):
        return None  # nothing yet, or a line that is being written
    return int(step)
