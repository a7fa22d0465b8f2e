"""Starts workers with torchrun's own launcher, follows them, and says in one line why they ended.

Each worker is ``python -m adamesh.train.process MODULE ARGUMENTS`` in a session of its own, so the
terminal's Ctrl-C reaches only this process, which passes it on once: the workers finish their step, save and
end. What they print goes to the logs' folder; only the first worker keeps the terminal, for its progress bar.
"""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil
from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from adamesh.errors import DiskFull
from adamesh.train import failure
from adamesh.train.failure import Failure
from adamesh.train.files import append_whole

__all__ = ["Outcome", "Stop", "defaults", "launcher_log", "next_folder", "run_workers"]

# What torchrun's launcher leaves the other workers when one has failed, before it kills them.
_LAUNCHER_GRACE_S = 30


@dataclass(frozen=True)
class Outcome:
    """How a group of workers ended."""

    failure: Failure | None
    """The root cause, if one failed."""
    log: Path | None
    """What the worker that failed had to say."""
    stopped: bool
    """Whether a signal (Ctrl-C) asked them to end before they were done."""


def run_workers(
    module: str, arguments: Sequence[str], *, nproc: int, logs: Path, on_stop: Callable[[], None]
) -> Outcome:
    """Run ``module.main(arguments)`` in ``nproc`` processes of this machine and wait for them.

    Args:
        module: its ``main`` takes the arguments; ``RANK``, ``WORLD_SIZE`` and so on are in the environment.
        arguments: given to each worker alike.
        nproc: number of workers.
        logs: an existing folder; this start gets a numbered folder inside.
        on_stop: called when the first signal to stop came in, to tell the user so.

    Raises:
        KeyboardInterrupt: a second signal came in; the workers have been killed.
    """
    folder = next_folder(logs)
    with tempfile.TemporaryDirectory(prefix="adamesh-") as records:
        return _followed(_Folders(folder, Path(records)), (module, *arguments), nproc, on_stop)


def _followed(folders: "_Folders", work: Sequence[str], nproc: int, on_stop: Callable[[], None]) -> Outcome:
    folder = Path(folders.root_log_dir)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        logs_specs=folders,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        # SIGINT, SIGTERM and SIGHUP are ours: the launcher would end the workers after a fixed time.
        signals_to_handle="SIGQUIT",
    )
    command = ("-u", "-m", "adamesh.train.process", *work)
    with launcher_log(folder / "launcher.log"), defaults(nproc), Stop(on_stop) as stop:
        try:
            with warnings.catch_warnings():
                # The launcher leaves the workers' logs open when they ended by themselves.
                warnings.simplefilter("ignore", ResourceWarning)
                elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            failures = [_of_worker(rank, ended) for rank, ended in error.failures.items()]
            root = failure.root_cause(failures, _LAUNCHER_GRACE_S)
            return Outcome(root, _log(folder, root.rank), stop.requested)
        except KeyboardInterrupt:
            stop.kill()
            raise
    return Outcome(None, None, stop.requested)


class _Folders(LogsSpecs):
    """Two flat folders: one for ``worker0.log``, one for ``worker0.error.json``, the reason that it failed.

    Not in the same place: where the logs' disk is full, this is what has to be said.
    """

    def __init__(self, folder: Path, records: Path) -> None:
        super().__init__(log_dir=str(folder))
        self._folder = folder
        self._records = records

    @property
    def root_log_dir(self) -> str:
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        errors = {rank: str(self._records / f"worker{rank}.error.json") for rank in envs}
        for rank, environment in envs.items():
            environment["TORCHELASTIC_ERROR_FILE"] = errors[rank]
        return LogsDest(
            # Two open files of one name would overwrite each other: `process` lets stdout follow stderr.
            stdouts={rank: "" if rank == 0 else os.devnull for rank in envs},
            stderrs={rank: str(_log(self._folder, rank)) for rank in envs},
            error_files=errors,
        )


class Stop:
    """The first signal asks the workers to finish their step, save and end; the second kills them.

    Args:
        on_stop: called at the first signal.
        passed_on: what workers get in place of a signal; SIGINT ends the whole run.
        pids: of the workers that run; not given: all processes that this one has started meanwhile.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(
        self,
        on_stop: Callable[[], None],
        passed_on: Callable[[int], int] = lambda _: signal.SIGINT,
        pids: Callable[[], Sequence[int]] | None = None,
    ) -> None:
        self.requested = False
        self._on_stop = on_stop
        self._passed_on = passed_on
        self._ended = threading.Event()
        before = {child.pid for child in psutil.Process().children()}
        self._pids = pids or (lambda: [c.pid for c in psutil.Process().children() if c.pid not in before])
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        # Only a main thread may; elsewhere whoever owns that thread decides what Ctrl-C means.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def kill(self) -> None:
        """End every worker at once, and what it started."""
        for pid in self._pids():
            try:
                # A worker leads a process group of its own, which holds its data loaders too.
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self.kill()
            raise KeyboardInterrupt
        self.requested = True
        self._on_stop()
        threading.Thread(target=self._pass_on, args=(self._passed_on(number),), daemon=True).start()

    def _pass_on(self, number: int) -> None:
        told: set[int] = set()
        # Workers may still be starting: look again until there are none.
        while not self._ended.wait(0.1):
            for pid in self._pids():
                if pid not in told:
                    told.add(pid)
                    try:
                        os.kill(pid, number)
                    except ProcessLookupError:
                        continue


def _of_worker(rank: int, ended: object) -> Failure:
    record = getattr(ended, "error_file_data", {})
    exit_code, time_s = getattr(ended, "exitcode", 1), getattr(ended, "timestamp", time.time())
    return failure.read(record) or failure.exited(rank, exit_code, time_s)


def next_folder(logs: Path) -> Path:
    """A new numbered folder for the logs of one start."""
    while True:
        number = 1 + max((int(f.name) for f in logs.iterdir() if f.name.isdecimal()), default=0)
        folder = logs / str(number)
        try:
            folder.mkdir()
        except FileExistsError:  # another machine of the run was quicker
            continue
        return folder


def _log(folder: Path, rank: int) -> Path:
    return folder / f"worker{rank}.log"


@contextmanager
def defaults(nproc: int, *, alone: bool = True) -> Iterator[None]:
    """What workers find in their environment unless the user has set it.

    Args:
        nproc: workers of this machine.
        alone: there are none on others.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = {
        "OMP_NUM_THREADS": str(max(1, cores // nproc)),
        # All workers are on this machine; its outward address may be firewalled, or change.
        "GLOO_SOCKET_IFNAME": next((name for name in ("lo", "lo0") if alone and name in psutil.net_if_addrs()), ""),
    }
    added = {name: value for name, value in wanted.items() if value and name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class _LauncherLog(logging.Handler):
    """A file that begins with its first line, and that a full disk may cut short: it tells nothing else of that."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(DiskFull), FileIO(self._file, "a") as file:
            append_whole(file, self.format(record))


@contextmanager
def launcher_log(file: Path) -> Iterator[None]:
    """Keep what torchrun's launcher says of its own work out of the user's sight."""
    logger = logging.getLogger("torch.distributed.elastic")
    handler = _LauncherLog(file)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.propagate = propagated
