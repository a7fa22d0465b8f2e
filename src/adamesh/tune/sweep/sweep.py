"""Runs a sweep's trials, side by side, follows their evaluations, and ends those that fall behind."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from adamesh.errors import ConfigurationError
from adamesh.train.progress import Display
from adamesh.train.settings import RunConfig
from adamesh.tune.arms import Arm, Budget, Trial, make_arm
from adamesh.tune.results import read_trial
from adamesh.tune.running import LOOK_EVERY_S, Running, Start, begun, end, interruptible, start_trial, steps_of
from adamesh.tune.sweep.space import Dimension, Numbers
from adamesh.tune.sweep.study import StudyBook

__all__ = ["Evaluations", "Proposer", "alone_in", "sweep"]


@dataclass(frozen=True)
class Proposer:
    """Makes a run of a trial's parameters.

    Args:
        config: of all trials.
        base: the same, resolved: its samples are everybody's budget.
        dimensions: what is searched.
        folder: of the sweep.
    """

    config: RunConfig
    base: RunConfig
    dimensions: Sequence[Dimension]
    folder: Path

    def arm(self, numbers: Numbers) -> Arm:
        """The configuration with these parameters.

        Raises:
            ConfigurationError: they do not fit each other.
        """
        settings = tuple(dimension.setting(numbers) for dimension in self.dimensions)
        return make_arm(self.config, settings, self.base, Budget())

    def trial(self, numbers: Numbers, folder_number: int) -> Trial:
        """The run with these parameters, in the sweep's folder of that number."""
        arm = self.arm(numbers)
        place = self.folder / "trials" / f"{folder_number:04d}"
        return Trial(arm, replace(arm.config, out=place), place)

    def corners(self) -> list[Arm]:
        """The ends of each dimension, one at a time: what is no configuration is found before anything is trained.

        Raises:
            ConfigurationError: one is not.
        """
        return [
            make_arm(self.config, ((dimension.key, text),), self.base, Budget())
            for dimension in self.dimensions
            for text in dimension.corners()
        ]


class Evaluations:
    """The objective at each evaluation of a trial, as its ``metrics.jsonl`` grows.

    Args:
        trial: which may not have begun.
    """

    def __init__(self, trial: Trial) -> None:
        self._path = trial.folder / "metrics.jsonl"
        self._name = f"eval_{trial.config.best_metric}"
        self._file: tuple[int, int] = (0, 0)
        """Which one it was, and up to where it is known: a trial that is repeated gets a new one."""
        self._values: list[float] = []

    def read(self) -> list[float]:
        """All so far; NaN where one is not finite."""
        try:
            with self._path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self._file[0]:
                    self._file, self._values = (inode, 0), []
                file.seek(self._file[1])
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._file = (inode, self._file[1] + len(whole) + len(newline))
        for line in whole.splitlines():
            value = json.loads(line).get(self._name, self)
            if value is not self:
                self._values.append(float("nan") if value is None else float(value))
        return self._values


@dataclass
class _Turn:
    """A trial that runs now."""

    number: int
    running: Running
    evaluations: Evaluations
    pruned: bool = False


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder.

    Raises:
        ConfigurationError: one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"out = {folder}: another sweep is at work there; wait for it, or choose another --out"
            ) from None
        yield


def sweep(
    book: StudyBook,
    proposer: Proposer,
    num_trials: int,
    jobs: int,
    display: Display,
    start: Start = start_trial,
) -> None:
    """Run trials until so many have ended, those of earlier calls included.

    A trial that fails leaves the others alone. Ctrl-C, or SIGTERM, asks those that run to save and end: the next call
    goes on with them.

    Args:
        book: who proposes, and judges.
        proposer: makes runs of what is proposed.
        num_trials: in all.
        jobs: trials at once.
        display: told of each trial that ends; its steps are trials.
        start: how a trial is begun.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    ended = len(book.trials())
    searched = ", ".join(name for dimension in proposer.dimensions for name in dimension.names())
    header = [("searched", searched), ("trials", f"{num_trials}, {jobs} at once")]
    if ended or book.repeated:
        header.append(("found", f"{ended} trials that have ended, {book.repeated} that were cut short"))
    display.begin(header, ended, num_trials)
    turns: list[_Turn] = []
    with interruptible():
        try:
            while ended < num_trials or turns:
                while ended + len(turns) < num_trials and len(turns) < jobs:
                    turn = _proposed(book, proposer, jobs, start, display.say)
                    if turn is None:
                        ended += 1
                    else:
                        turns.append(turn)
                time.sleep(LOOK_EVERY_S)
                for turn in turns:
                    _follow(book, turn)
                for turn in [turn for turn in turns if turn.running.process.poll() is not None]:
                    turns.remove(turn)
                    _conclude(book, turn, display.say)
                    ended += 1
                if steps := steps_of([turn.running for turn in turns]):
                    display.step(ended, steps)
        except BaseException:
            end([turn.running for turn in turns])
            raise
        finally:
            display.end()


def _proposed(book: StudyBook, proposer: Proposer, jobs: int, start: Start, say: Callable[[str], None]) -> _Turn | None:
    """The next trial, started; None: what was proposed cannot be trained."""
    number, numbers, folder_number = book.propose()
    try:
        trial = proposer.trial(numbers, folder_number)
    except ConfigurationError as error:
        book.failed(number, str(error), diverged=False)
        say(f"trial {number}: {error}")
        return None
    return _Turn(number, begun(trial, jobs, start), Evaluations(trial))


def _follow(book: StudyBook, turn: _Turn) -> None:
    if not turn.pruned and book.falls_behind(turn.number, turn.evaluations.read()):
        turn.pruned = True
        turn.running.process.send_signal(signal.SIGINT)


def _conclude(book: StudyBook, turn: _Turn, say: Callable[[str], None]) -> None:
    trial, number = turn.running.trial, turn.number
    result = read_trial(trial)
    name, values = f"trial {number}: {trial.arm.name}", turn.evaluations.read()
    if result.finished:
        value = result.metrics[trial.config.best_metric]
        book.falls_behind(number, values)  # for the others' sake: it is at its end itself
        book.completed(number, value)
        say(f"{name}: {trial.config.best_metric} {value:.4g}  ({result.seconds:.1f} s)")
    elif turn.pruned:
        book.pruned(number)
        say(f"{name}: ended after evaluation {len(values)}, at {values[-1]:.4g}: it fell behind")
    else:
        why = result.failure or f"ended with exit code {turn.running.process.returncode}; see {trial.folder}/output.log"
        book.failed(number, why, diverged=": Diverged: " in why)
        say(f"{name}: failed: {why}")
