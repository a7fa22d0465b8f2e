"""A run that rehearses failures: its workers note when they do what, and die in the middle where they are told to.

The environment variable ``ADAMESH_DRILL`` names a folder. In it, each worker leaves ``PID.notes``: who it is, a line of
JSON, then ``SECONDS STEP PHASE`` for all that it notes, by a clock that all processes of a machine share. A file
``PID.order`` with ``PHASE DELAY`` has the worker killed so many seconds after the beginning of its next such phase;
while there is a file ``slowly``, all workers rest between steps, so that a run is not over before a newcomer is there.
"""

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["DIES", "DRILL", "MADE", "RESTED", "SLOWLY", "Identity", "Rehearsal", "order"]

DRILL = "ADAMESH_DRILL"
DIES = "dies"
"""The phase that a worker notes for the moment when it will be killed."""
MADE = "between steps"
"""The phase that begins when a step was made."""
RESTED = "rested"
SLOWLY = "slowly"
_LEAST_S = 1e-6
_REST_S = 0.1


@dataclass(frozen=True)
class Identity:
    """Who a worker is."""

    pid: int
    rank: int
    """That it was started with; newcomers may have that of another one."""
    joined: bool
    """The run went on before it came."""
    name: str
    """That events call it by."""


def order(folder: Path, pid: int, phase: str, delay_s: float) -> None:
    """Have a worker killed in its next phase of that name."""
    draft = folder / f".{pid}.order"
    draft.write_text(f"{phase} {delay_s}", encoding="utf-8")
    draft.replace(folder / f"{pid}.order")


class Rehearsal:
    """What one worker notes, and the order that it obeys.

    Args:
        folder: where notes go and orders come from.
        name: of this worker, in events.
        environment: of its process.
    """

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        pid = os.getpid()
        self._slowly = folder / SLOWLY
        self._order = folder / f"{pid}.order"
        # Written at once, for the last note before a kill counts, and open for as long as the process lives.
        self._file = os.open(folder / f"{pid}.notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        me = Identity(pid, int(environment.get("RANK", "0")), bool(environment.get("ADAMESH_JOIN")), name)
        os.write(self._file, f"{json.dumps(asdict(me))}\n".encode())

    def note(self, step: int, phase: str) -> None:
        """Take down that this worker is at a step, in a phase."""
        now_s = time.monotonic()
        os.write(self._file, f"{now_s:.6f} {step} {phase}\n".encode())
        if self._order.exists():
            wanted, delay = self._order.read_text(encoding="utf-8").split()
            if phase == wanted:
                self._die(now_s, step, max(float(delay), _LEAST_S))
        if phase == MADE and self._slowly.exists():
            time.sleep(_REST_S)
            os.write(self._file, f"{time.monotonic():.6f} {step} {RESTED}\n".encode())

    def _die(self, now_s: float, step: int, delay_s: float) -> None:
        """Be killed in the middle of whatever comes: by the kernel's timer, which waits for no lock of Python's."""
        self._order.unlink()
        os.write(self._file, f"{now_s + delay_s:.6f} {step} {DIES}\n".encode())
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, delay_s)
