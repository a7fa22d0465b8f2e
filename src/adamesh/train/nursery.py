"""Where the workers of a run that come and go are born: forked from a process that has loaded everything already.

Loading torch takes seconds of a core, and a worker that dies is soon replaced: so a server of the standard library's
`multiprocessing` loads once and forks each worker. It runs no thread and touches no GPU. It, and the supervisors, may
end while workers go on.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

__all__ = ["begin"]

_LOADED = ("adamesh.train.worker", "torch._dynamo")  # the latter by the first optimizer of a process, otherwise


def begin(label: int, work: Sequence[str], environment: Mapping[str, str], log: Path) -> BaseProcess:
    """Start a worker process, which leads a session of its own.

    Args:
        label: its number among all that were started; the process is called so.
        work: module and arguments, see `adamesh.train.process`.
        environment: of the process, whole.
        log: a file that its standard error is added to.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_LOADED])
    process = context.Process(target=_live, args=(label, tuple(work), dict(environment), str(log)), daemon=False)
    process.start()
    return process


def _live(label: int, work: Sequence[str], environment: Mapping[str, str], log: str) -> None:
    # Here, in the fork, both are loaded already; whoever only asks for it waits for neither.
    import torch

    from adamesh.train.process import main

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    with suppress(OSError), Path("/proc/self/comm").open("w") as comm:  # elsewhere than on Linux it stays nameless
        comm.write(f"adamesh-{label}")
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 2)
    os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    threads = environment.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        torch.set_num_threads(int(threads))
    code = main(work)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
