"""One trial, in a process of its own: ``python -m adamesh.train.process adamesh.tune.trial FOLDER``.

It is a run like any other (`adamesh.train.launch` starts its workers), begun or gone on with; and it ends in good
order when whoever started it has gone.
"""

import fcntl
from collections.abc import Sequence
from pathlib import Path

from adamesh.train.config import load_config
from adamesh.train.files import write_whole
from adamesh.train.launch import run_workers
from adamesh.tune.results import FAILURE, is_finished

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Train the run whose ``config.toml`` is in the folder; leaves the reason there if it fails."""
    folder = Path(arguments[0])
    with (folder / "lock").open("w") as lock:
        # The process of a comparison that was killed may be saving still.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_finished(folder):
            return 0
        (folder / FAILURE).unlink(missing_ok=True)
        checkpoints = folder / "checkpoints"
        again = ["--resume"] if checkpoints.is_dir() and any(checkpoints.iterdir()) else []
        outcome = run_workers(
            "adamesh.train.worker",
            [str(folder), *again],
            nproc=load_config(folder / "config.toml").nproc,
            logs=folder / "logs",
            on_stop=lambda: None,
        )
        if outcome.failure is None:
            return 0
        if not outcome.stopped:
            write_whole(folder / FAILURE, f"{outcome.failure.line()}\n")
        return 1
