"""Starts one worker on each of several hosts, follows them, and says in one line why one of them failed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from adamesh.bench.hosts import Hosts
from adamesh.errors import AdameshError
from adamesh.train import failure

__all__ = ["run_on_hosts"]

_PORT = 29_417  # every host has all ports for itself
_LOOK_EVERY_S = 0.2
_GRACE_S = 5.0


def run_on_hosts(hosts: Hosts, module: str, arguments: Sequence[str], logs: Path) -> None:
    """Run ``module.main(arguments)`` in a worker on every host, rank by rank, and wait for all.

    The first worker writes to the terminal, the others to files in ``logs``.

    Raises:
        AdameshError: one failed; the others were ended.
    """
    logs.mkdir(parents=True, exist_ok=True)
    workers = [_start(hosts, rank, module, arguments, logs) for rank in range(hosts.num)]
    try:
        while any(worker.poll() is None for worker in workers):
            if any(worker.poll() for worker in workers):
                break
            time.sleep(_LOOK_EVERY_S)
        deadline_s = time.monotonic() + _GRACE_S
        while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline_s:
            time.sleep(_LOOK_EVERY_S)  # the others' own reasons may be worth reading
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
    found = [_reason(rank, worker, logs) for rank, worker in enumerate(workers) if worker.returncode]
    if found:
        root = failure.root_cause(found, _GRACE_S)
        raise AdameshError(f"{root.line()}; its log is {logs / f'host{root.rank}.log'}")


def _start(hosts: Hosts, rank: int, module: str, arguments: Sequence[str], logs: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "adamesh.train.process", module, *arguments]
    environment = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(hosts.num),
        "LOCAL_RANK": "0" if rank == 0 else "1",  # only the first one's output is for the terminal
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": hosts.address(0),
        "MASTER_PORT": str(_PORT),
        "GLOO_SOCKET_IFNAME": hosts.interface,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TORCHELASTIC_ERROR_FILE": str(_error_file(logs, rank)),
    }
    _error_file(logs, rank).unlink(missing_ok=True)
    with (logs / f"host{rank}.log").open("wb") as log:
        return subprocess.Popen(hosts.command(rank, argv), env=environment, stdin=subprocess.DEVNULL, stderr=log)


def _reason(rank: int, worker: subprocess.Popen[bytes], logs: Path) -> failure.Failure:
    file = _error_file(logs, rank)
    record = failure.read(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None
    return record or failure.exited(rank, worker.returncode, time.time())


def _error_file(logs: Path, rank: int) -> Path:
    return logs / f"host{rank}.error.json"
