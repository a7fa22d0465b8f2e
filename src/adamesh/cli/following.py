"""Beginning a run, starting its workers, saying how they ended: what several commands share."""

import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from adamesh.train import existing
from adamesh.train.failure import Failure
from adamesh.train.process import run_here
from adamesh.train.settings import RunConfig
from adamesh.train.supervise import Founding, run_company
from adamesh.train.watching import Outcome

__all__ = ["begin", "follow", "one_folder", "say", "speaks"]


def begin(config: RunConfig, kind: str = "") -> tuple[Path, int]:
    """Make the folder of a new run; returns it and the number of workers."""
    from adamesh.train.folder import begin_run

    size = existing.world_size() if existing.is_present() else config.nproc
    return one_folder(lambda: begin_run(config, size, datetime.now(), kind)), size


def one_folder(choose: Callable[[], Path]) -> Path:
    """The folder that ``choose`` returns; under an existing launch, the first worker's choice is everybody's."""
    return existing.first_decides(choose) if existing.is_present() else choose()


def follow(
    module: str,
    arguments: Sequence[str],
    folder: Path,
    nproc: int,
    *,
    saves: bool,
    founding: Founding | None = None,
) -> int:
    """Run a module in all workers; returns the exit code, and says in one line why it is not 0.

    Args:
        module: what every worker runs.
        arguments: for its ``main``.
        folder: of the run; logs go there.
        nproc: workers to start; under an existing launch this process is one already.
        founding: how workers meet that may come and go; None: they stay the same.
        saves: whether workers that are asked to stop save first, so that the run can be resumed.
    """
    if existing.is_present():
        return run_here(module, arguments, on_failure=_complain)
    try:
        promise = "stopping after this step and saving; Ctrl-C again quits at once" if saves else "stopping"
        logs = folder / "logs"
        if founding is None:
            from adamesh.train.launch import run_workers

            outcome = run_workers(module, arguments, nproc=nproc, logs=logs, on_stop=lambda: say(promise))
        else:
            outcome = run_company(
                module, arguments, nproc=nproc, folder=folder, founding=founding, on_stop=lambda: say(promise)
            )
    except KeyboardInterrupt:
        hint = f"; to go on from the last checkpoint: adamesh resume {os.path.relpath(folder)}" if saves else ""
        say(f"stopped at once{hint}")
        return 1
    finally:
        _show_cursor()
    if outcome.failure is None:
        return 0
    if _cut_short(outcome):
        say("stopped before the first step; there was nothing to save" if saves else "stopped")
        return 1
    _complain(outcome.failure, outcome.log)
    return 2 if outcome.failure.configuration else 1


def speaks() -> bool:
    """Whether this process is the one that talks to the user."""
    return os.environ.get("RANK", "0") == "0"


def say(line: str) -> None:
    """A line for the user that is not the result."""
    print(f"adamesh: {line}", file=sys.stderr, flush=True)


def _show_cursor() -> None:
    """A first worker that was killed had no time to end its progress bar, which hides the cursor."""
    if sys.stdout.isatty():
        print("\x1b[?25h", end="", flush=True)


def _cut_short(outcome: Outcome) -> bool:
    """Whether the signal to stop met workers that were still starting."""
    assert outcome.failure is not None
    return outcome.stopped and outcome.failure.what == "was killed (SIGINT)"


def _complain(failure: Failure, log: Path | None = None) -> None:
    # What the user has to put right needs no traceback.
    where = "" if log is None or failure.configuration else f". Full log: {os.path.relpath(log)}"
    say(f"{failure.line()}{where}")
