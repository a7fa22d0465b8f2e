"""One rehearsed run: ``adamesh train`` as a user starts it, on this machine or on hosts made of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from adamesh.bench.hosts import Hosts
from adamesh.drill.notes import Notes
from adamesh.errors import AdameshError
from adamesh.train.config import write_config
from adamesh.train.events import Event, read_events
from adamesh.train.rehearsal import DRILL, SLOWLY
from adamesh.train.settings import RunConfig

__all__ = ["Ended", "Session"]

_LOOK_EVERY_S = 0.002
_PORT = 29_417  # every host has all ports for itself
_GRACE_S = 20.0


class Ended(Exception):
    """The run has ended while something was expected of it."""


@dataclass(frozen=True)
class _Line:
    """A command and how it is started."""

    argv: Sequence[str]
    environment: dict[str, str]


class Session:
    """A context in which a run goes on.

    Args:
        config: of the run, with as many workers as it begins with.
        folder: for the run; beside it goes what the drill needs.
        respawn: workers that are killed are started again.
        hosts: one for each worker; None: all workers are here.
    """

    def __init__(self, config: RunConfig, folder: Path, *, respawn: bool = True, hosts: Hosts | None = None) -> None:
        self.folder = folder
        self.config = replace(config, out=folder)
        self.hosts = hosts
        beside = folder.parent / f"{folder.name}.drill"
        self.orders = beside / "notes"
        """Where workers leave notes and get orders."""
        self.orders.mkdir(parents=True)
        self.notes = Notes(self.orders)
        self.rests = True
        """Steps are made slowly while something is waited for that takes long."""
        self._respawn = respawn
        self._settings = beside / "config.toml"
        self._log = beside / "output.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._begun = 0
        """How many of them the run began with; the others have joined, and may come too late."""

    def __enter__(self) -> Self:
        write_config(self.config, self._settings)
        for line in self._lines():
            self._start(line)
            self._begun += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.end()

    def add(self, argv: Sequence[str]) -> None:
        """Start another ``adamesh`` command beside the run."""
        self._start(_Line([sys.executable, "-m", "adamesh", *argv], self._environment()))

    @contextmanager
    def slowly(self) -> Iterator[None]:
        """Inside, the run makes few steps a second, if it is to."""
        if not self.rests:
            yield
            return
        (self.orders / SLOWLY).touch()
        try:
            yield
        finally:
            (self.orders / SLOWLY).unlink()

    def await_(self, met: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Wait, reading notes, until something is so.

        Raises:
            Ended: the run has ended before.
            AdameshError: it took too long.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.notes.read()
            if met():
                return
            if not self.going:
                raise Ended(f"the run has ended, and it was waited for this: {what}")
            if time.monotonic() > deadline:
                raise AdameshError(f"it took more than {timeout_s:.0f} s, and was waited for: {what}; see {self._log}")
            time.sleep(_LOOK_EVERY_S)

    def rest(self, seconds: float) -> None:
        """Let some time go by.

        Raises:
            Ended: the run has ended meanwhile.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.going:
                raise Ended("the run has ended")
            time.sleep(min(0.02, max(0.0, until - time.monotonic())))

    @property
    def going(self) -> bool:
        """The run has not ended."""
        return self._processes[0].poll() is None or (
            self.hosts is not None and any(process.poll() is None for process in self._processes)
        )

    def wait(self, look: Callable[[], None]) -> int:
        """Wait for the end of the run; returns its exit code."""
        while any(process.poll() is None for process in self._processes):
            self.notes.read()
            look()
            time.sleep(0.1)
        self.notes.read()
        return max((process.returncode for process in self._processes[: self._begun]), key=abs)

    def end(self) -> None:
        """Kill all that is left of it."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # the second one kills its workers
                time.sleep(0.2)
                process.send_signal(signal.SIGINT)
        self.notes.read()
        for worker in self.notes.workers.values():
            if worker.alive:
                os.kill(worker.identity.pid, signal.SIGKILL)
        for process in self._processes:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def events(self) -> list[Event]:
        """What the run says has happened."""
        return read_events(self.folder / "events.jsonl")

    @property
    def summary(self) -> dict[str, Any] | None:
        """How it ended; None if it did not come so far."""
        path = self.folder / "summary.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    @property
    def last_words(self) -> str:
        """The last line of what it printed."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _lines(self) -> list[_Line]:
        command = [sys.executable, "-m", "adamesh", "train", str(self._settings)]
        if not self._respawn:
            command.append("--no-respawn")
        if self.hosts is None:
            return [_Line(command, self._environment())]
        lines = []
        for host in range(self.hosts.num):
            machines = ["--nproc", "1", "--nnodes", str(self.hosts.num), "--node-rank", str(host)]
            argv = [*command, *machines, "--rdzv-endpoint", f"{self.hosts.address(0)}:{_PORT}"]
            environment = self._environment() | {"GLOO_SOCKET_IFNAME": self.hosts.interface, "OMP_NUM_THREADS": "1"}
            lines.append(_Line(self.hosts.command(host, argv), environment))
        return lines

    def _environment(self) -> dict[str, str]:
        return os.environ | {DRILL: str(self.orders)}

    def _start(self, line: _Line) -> None:
        with self._log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    line.argv,
                    env=line.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
