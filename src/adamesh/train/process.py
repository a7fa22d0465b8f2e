"""What every worker process does around its work: one log, a record of its failure, an eye on its launcher.

``python -m adamesh.train.process MODULE ARGUMENTS`` runs ``MODULE.main(ARGUMENTS)``.
"""

import faulthandler
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from adamesh.errors import DiskFull
from adamesh.train import failure
from adamesh.train.failure import Failure

__all__ = ["main", "run_here"]

# A worker whose launcher has died may finish its step and save for this long.
_ORPHAN_GRACE_S = 60.0
_LOOK_EVERY_S = 0.5


def main(argv: Sequence[str]) -> int:
    """The entry of a worker that `adamesh.train.launch` starts."""
    elastic = "ADAMESH_TOKEN" in os.environ
    if os.environ.get("LOCAL_RANK") != "0" and not elastic:
        # The first worker's stdout is the terminal; the others' joins their stderr, which is a file.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if not elastic:  # there, no launcher's end ends a worker
        threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()
    return run_here(argv[0], argv[1:], on_failure=lambda _: None)


def run_here(module: str, arguments: Sequence[str], on_failure: Callable[[Failure], None]) -> int:
    """Run ``module.main(arguments)`` as one worker, in this process.

    A failure ends the process at once: clean-up could wait for peers who wait for this worker's end.

    Args:
        module: where the work is.
        arguments: for its ``main``.
        on_failure: called with the reason before the process ends with code 1, or 2 if the configuration is
            wrong; the traceback has gone to stderr, the record to where a launcher looks for it.
    """
    # A crash in C++ leaves its Python stack in the log.
    faulthandler.enable()
    try:
        return int(importlib.import_module(module).main(arguments))
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        _log(trace)
        reason = failure.describe(error, rank=int(os.environ.get("RANK", "0")), time_s=time.time())
        path = os.environ.get("TORCHELASTIC_ERROR_FILE")
        if path:
            # Where that has no room either, the launcher still sees how this process ended.
            with suppress(DiskFull):
                failure.write(reason, Path(path), trace)
        on_failure(reason)
        sys.stdout.flush()
        os._exit(2 if reason.configuration else 1)


def _log(trace: str) -> None:
    try:
        sys.stderr.write(trace)
        sys.stderr.flush()
    except OSError:
        # The log lies beside the run: on a full disk, which may be what the trace tells, it has no room. The
        # record of the failure has the trace too.
        return


def _follow(launcher: int) -> None:
    """End in good order when the launcher was killed: nobody else would ever end this process."""
    while os.getppid() == launcher:
        time.sleep(_LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_ORPHAN_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
