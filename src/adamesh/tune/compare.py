"""Runs the trials of a comparison: in turn, or side by side; those that are finished already are not repeated."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adamesh.train.folder import begin_run
from adamesh.train.progress import Display
from adamesh.tune.arms import Arm, Trial
from adamesh.tune.results import ArmResult, TrialResult, read_trial

__all__ = ["Start", "compare", "jobs_at_once", "start_trial"]

_LOOK_EVERY_S = 0.2
_LAST_LINE_BYTES = 4096

Start = Callable[[Trial, int], "subprocess.Popen[bytes]"]
"""Starts a trial that is one of so many at once."""


@dataclass
class _Running:
    trial: Trial
    process: "subprocess.Popen[bytes]"


def jobs_at_once(arms: Sequence[Arm], cores: int, *, timed: bool) -> int:
    """How many trials the machine has cores for, one for each worker; one where the clock decides."""
    return 1 if timed else max(1, cores // max(arm.config.nproc for arm in arms))


def compare(
    arms: Sequence[Arm], trials: Sequence[Trial], jobs: int, display: Display, start: Start | None = None
) -> list[ArmResult]:
    """Run all trials that are not finished, and say what all have found.

    A trial that fails leaves the others alone. Ctrl-C, or SIGTERM, asks those that run to save and end: the same
    call goes on with them.

    Args:
        arms: what is compared.
        trials: of these arms.
        jobs: trials at once.
        display: told of each trial that ends; its steps are trials.
        start: how a trial is begun; not given: `start_trial`.

    Raises:
        ConfigurationError: a trial's folder holds something else, or cannot be written.
        KeyboardInterrupt: it was interrupted.
    """
    results = {trial: read_trial(trial) for trial in trials}
    waiting = [trial for trial in trials if not results[trial].finished]
    running: list[_Running] = []
    done = len(trials) - len(waiting)
    header = [
        ("arms", f"{len(arms)}, {len(trials)} trials, {jobs} at once"),
        *((f"arm {number}", arm.name) for number, arm in enumerate(arms, start=1)),
        *([("found", f"{done} finished trials, not repeated")] if done else []),
    ]
    display.begin(header, done, len(trials))
    with _interruptible():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_begun(waiting.pop(0), jobs, start or start_trial))
                time.sleep(_LOOK_EVERY_S)
                for ended in [one for one in running if one.process.poll() is not None]:
                    running.remove(ended)
                    results[ended.trial] = _result(ended)
                    done += 1
                    display.say(_line(ended.trial, results[ended.trial]))
                if steps := _steps(running):
                    display.step(done, steps)
        except BaseException:
            _end(running)
            raise
        finally:
            display.end()
    return [ArmResult(arm, [results[trial] for trial in trials if trial.arm is arm]) for arm in arms]


def start_trial(trial: Trial, jobs: int) -> "subprocess.Popen[bytes]":
    """The trial as a run of its own: what it prints goes to ``output.log``, Ctrl-C does not reach it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(1, cores // (trial.config.nproc * jobs)))
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
def _interruptible() -> Iterator[None]:
    """SIGTERM is an interruption too; and so is SIGINT where a shell has told its background jobs to ignore it."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    previous = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _begun(trial: Trial, jobs: int, start: Start) -> _Running:
    if not (trial.folder / "config.toml").is_file():
        begin_run(trial.config, trial.config.nproc, datetime.now())
    return _Running(trial, start(trial, jobs))


def _result(ended: _Running) -> TrialResult:
    result = read_trial(ended.trial)
    if result.finished or result.failure is not None:
        return result
    log = ended.trial.folder / "output.log"
    return TrialResult(result.seed, f"ended with exit code {ended.process.returncode}; see {log}", {})


def _line(trial: Trial, result: TrialResult) -> str:
    if not result.finished:
        return f"{trial.name}: failed: {result.failure}"
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
    return f"{trial.name}: {metrics}  ({result.seconds:.1f} s)"


def _steps(running: Sequence[_Running]) -> dict[str, float]:
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


def _end(running: Sequence[_Running]) -> None:
    """Ask the trials to save and end, and wait; whoever does not want to wait interrupts again."""
    for one in running:
        one.process.send_signal(signal.SIGINT)
    for one in running:
        try:
            one.process.wait()
        except KeyboardInterrupt:
            one.process.send_signal(signal.SIGINT)  # the second one kills the workers
            one.process.wait()
