"""Workers that come and go, each under a supervisor of its own: no worker's end ends another.

Who takes part is the workers' own matter (`adamesh.company`). A supervisor starts its worker again if that was killed,
or taken for dead by the others: as a newcomer, or, if nobody is left, as a founder that goes on from the newest
checkpoint.
"""

import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from adamesh.company.members import Members, read_members, write_members
from adamesh.errors import ConfigurationError
from adamesh.train import failure
from adamesh.train.failure import Failure
from adamesh.train.nursery import begin
from adamesh.train.watching import DEPARTED, EXPELLED, Outcome, Stop, defaults, next_folder

__all__ = ["Founding", "run_company"]

_LOOK_EVERY_S = 0.02
_AWAIT_S = 120.0
_TOGETHER_S = 0.1
"""Workers that are killed at once are seen one after the other."""
_END_S = 5.0
"""All workers that take part come to the end of a run together."""
_MOST_STARTS = 20
"""Of one supervisor's worker: a worker that dies again and again has a reason that starting it does not mend."""


@dataclass(frozen=True)
class Founding:
    """How the first workers of a run meet."""

    address: str
    port: int
    first: int
    """Number of this machine's first worker among all founders."""
    size: int
    """Founders, on all machines together; 0: this machine's workers join a run that goes on."""
    respawn: bool = True
    """Start a worker again that was killed, or that the others have taken for dead."""

    @classmethod
    def here(cls, nproc: int) -> "Founding":
        """All on this machine."""
        return cls("127.0.0.1", _free_port(), 0, nproc)

    @classmethod
    def on(cls, address: tuple[str, int] | None, node_rank: int, nnodes: int, nproc: int) -> "Founding":
        """On several machines, ``nproc`` workers on each; at no address: all here."""
        return cls.here(nproc) if address is None else cls(*address, node_rank * nproc, nnodes * nproc)


@dataclass
class _Crew:
    """The workers of this machine."""

    folder: Path
    """Of the run."""
    logs: Path
    records: Path
    work: Sequence[str]
    founding: Founding
    token: str
    nproc: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: set[int] = field(default_factory=set)
    """Numbers of those whose supervisors think of them as running."""
    pids: set[int] = field(default_factory=set)
    started: int = 0
    failures: list[tuple[Failure, Path]] = field(default_factory=list)
    ended_s: float | None = None
    """When some worker came to the end of the run, by the monotonic clock."""
    generation: int = 0
    """How often all have been started anew."""

    def passed_on(self, number: int) -> int:
        """A machine that is asked to end lets its workers go, if others go on; else the whole run ends, and saves."""
        known = read_members(self.folder)
        others = known is not None and len(known.addresses) > self.nproc
        return signal.SIGTERM if number == signal.SIGTERM and others else signal.SIGINT


def run_company(
    module: str, arguments: Sequence[str], *, nproc: int, folder: Path, founding: Founding, on_stop: Callable[[], None]
) -> Outcome:
    """Run ``module.main(arguments)`` in ``nproc`` processes of this machine that may end one by one.

    Args:
        module: its ``main`` takes the arguments, and ``--resume`` where all workers have to be started again.
        arguments: given to each worker alike.
        nproc: number of workers.
        folder: of the run; logs go to ``logs`` in it.
        founding: how workers meet.
        on_stop: called when the first signal to stop came in.

    Raises:
        KeyboardInterrupt: a second signal came in; the workers have been killed.
    """
    logs = next_folder(folder / "logs")
    token = _token(folder, founding)
    with tempfile.TemporaryDirectory(prefix="adamesh-") as records:
        crew = _Crew(folder, logs, Path(records), (module, *arguments), founding, token, nproc)
        alone = founding.address == "127.0.0.1"
        sharers = nproc if founding.size else nproc + _already_here(folder)
        with defaults(sharers, alone=alone), Stop(on_stop, crew.passed_on, lambda: list(crew.pids)) as stop:
            supervisors = [
                threading.Thread(target=_supervise, args=(crew, number, stop), daemon=True) for number in range(nproc)
            ]
            for supervisor in supervisors:
                supervisor.start()
            for supervisor in supervisors:
                while supervisor.is_alive():
                    supervisor.join(0.2)  # in pieces: signals are taken by this thread
        return _outcome(crew, stop.requested)


def _token(folder: Path, founding: Founding) -> str:
    """The run's secret: made by the machine of the first founder, which leaves it in the run's folder for the others.

    Raises:
        ConfigurationError: it does not.
    """
    if founding.first == 0 and founding.size:
        token = secrets.token_hex(16)
        write_members(folder, Members(token, -1, ()))
        return token
    deadline = time.monotonic() + _AWAIT_S
    while (known := read_members(folder)) is None:
        if time.monotonic() >= deadline:
            raise ConfigurationError(
                f"{folder}: no members.json within {_AWAIT_S:.0f} s: the first machine has not begun the run, or it "
                "has ended; see that the folder is on a disk that all machines see"
            )
        time.sleep(_LOOK_EVERY_S)
    return known.token


def _already_here(folder: Path) -> int:
    """How many workers of a run that goes on are on this machine."""
    known = read_members(folder)
    ours = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return 0 if known is None else sum(host in ours for host, _ in known.addresses)


def _outcome(crew: _Crew, stopped: bool) -> Outcome:
    if crew.ended_s is not None or not crew.failures:
        return Outcome(None, None, stopped)
    root = failure.root_cause([found for found, _ in crew.failures], 0)
    log = next(log for found, log in crew.failures if found is root)
    return Outcome(root, log, stopped)


def _supervise(crew: _Crew, number: int, stop: Stop) -> None:
    """Keep one worker running, until the run has ended or there is no sense in it."""
    joins = not crew.founding.size
    generation = 0
    for _ in range(_MOST_STARTS):
        with crew.lock:
            crew.running.add(number)
            label = crew.started
            crew.started += 1
        code, found = _one_life(crew, number, label, joins=joins, generation=generation)
        with crew.lock:
            crew.running.discard(number)
            if found is not None:
                crew.failures.append((found, crew.logs / f"worker{label}.log"))
            if code == 0 and crew.ended_s is None:
                crew.ended_s = time.monotonic()
        if code < 0:
            time.sleep(_TOGETHER_S)
        with crew.lock:
            somebody_is_left = bool(crew.running)
        again = crew.founding.respawn and (code < 0 or code == EXPELLED)
        if code == 0 or crew.ended_s is not None or stop.requested or not again:
            return
        if somebody_is_left or not crew.founding.size or crew.founding.size > crew.nproc:
            if read_members(crew.folder) is None:
                return  # the run has ended meanwhile
            joins = True  # elsewhere or here, others go on
        else:
            with crew.lock:
                crew.generation += 1
            joins, generation = False, crew.generation


def _one_life(crew: _Crew, number: int, label: int, *, joins: bool, generation: int) -> tuple[int, Failure | None]:
    """Start a worker and wait for its end; returns its exit code, and why it failed."""
    log, record = crew.logs / f"worker{label}.log", crew.records / f"worker{label}.error.json"
    environment = os.environ | {
        "RANK": str(crew.founding.first + number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(max(crew.founding.size, 1)),
        "LOCAL_WORLD_SIZE": str(crew.nproc),
        "MASTER_ADDR": crew.founding.address,
        "MASTER_PORT": str(crew.founding.port),
        "TORCHELASTIC_ERROR_FILE": str(record),
        "ADAMESH_TOKEN": crew.token,
        "ADAMESH_RUN": str(crew.folder),
        "ADAMESH_JOIN": "1" if joins else "",
    }
    resume = ("--resume",) if generation and "--resume" not in crew.work else ()
    process = begin(label, (*crew.work, *resume), environment, log)
    assert process.pid is not None
    crew.pids.add(process.pid)
    try:
        while process.exitcode is None:
            process.join(_LOOK_EVERY_S)
            if crew.ended_s is not None and time.monotonic() > crew.ended_s + _END_S:
                return DEPARTED, None  # it has come too late to be let in by anybody
    finally:
        process.kill()
        process.join()
        crew.pids.discard(process.pid)
    code = process.exitcode
    if code in (0, DEPARTED, EXPELLED):
        return code, None
    found = failure.recorded(record) or failure.exited(number, code, time.time())
    return code, replace(found, rank=number)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
