"""What every way to start workers shares: their environment and logs, signals that are passed on, how they ended.

No torch here: whoever only watches workers starts at once.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil

from adamesh.train.failure import Failure

__all__ = ["DEPARTED", "EXPELLED", "Outcome", "Stop", "defaults", "next_folder"]

EXPELLED = 75
"""The exit code of a worker that the others have taken for dead (sysexits' "try again")."""
DEPARTED = 76
"""The exit code of a worker that has asked to go."""


@dataclass(frozen=True)
class Outcome:
    """How a group of workers ended."""

    failure: Failure | None
    """The root cause, if one failed."""
    log: Path | None
    """What the worker that failed had to say."""
    stopped: bool
    """Whether a signal (Ctrl-C) asked them to end before they were done."""


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


@contextmanager
def defaults(nproc: int, *, alone: bool = True) -> Iterator[None]:
    """What workers find in their environment unless the user has set it.

    Args:
        nproc: workers of this machine, who share its cores.
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
