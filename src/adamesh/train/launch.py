"""Starts workers with torchrun's own launcher, follows them, and says in one line why they ended.

Each worker is ``python -m adamesh.train.process MODULE ARGUMENTS`` in a session of its own, so the
terminal's Ctrl-C reaches only this process, which passes it on once: the workers finish their step, save and
end. What they print goes to the logs' folder; only the first worker keeps the terminal, for its progress bar.
"""

import logging
import os
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from adamesh.errors import DiskFull
from adamesh.train import failure
from adamesh.train.failure import Failure
from adamesh.train.files import append_whole
from adamesh.train.watching import Outcome, Stop, defaults, next_folder

__all__ = ["Outcome", "Stop", "defaults", "launcher_log", "next_folder", "run_workers"]

# What torchrun's launcher leaves the other workers when one has failed, before it kills them.
_LAUNCHER_GRACE_S = 30


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


def _of_worker(rank: int, ended: object) -> Failure:
    record = getattr(ended, "error_file_data", {})
    exit_code, time_s = getattr(ended, "exitcode", 1), getattr(ended, "timestamp", time.time())
    return failure.read(record) or failure.exited(rank, exit_code, time_s)


def _log(folder: Path, rank: int) -> Path:
    return folder / f"worker{rank}.log"


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
