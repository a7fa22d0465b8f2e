"""Real worker processes for tests, started once and reused: importing torch costs more than most tests."""

import faulthandler
import itertools
import multiprocessing
import os
import pickle
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from adamesh.errors import CommunicationError

READY = b"ready"
START_TIMEOUT_S = 100.0
GROUP_TIMEOUT = timedelta(seconds=20)


class WorkerDied(RuntimeError):
    """A worker process ended in the middle of a task."""


class WorkerHung(RuntimeError):
    """A worker process did not answer within the time limit."""


@dataclass(frozen=True)
class Task:
    """One rank's part of a call to `ProcessPool.run`."""

    number: int
    rank: int
    num_ranks: int
    call: bytes
    """The pickled (function, arguments); apart, so that a failing import is an answer, not a death."""


@dataclass
class Worker:
    process: BaseProcess
    connection: Connection


class ProcessPool:
    """``num_workers`` processes, any number of which run one function together as ranks of a Gloo group.

    Every call gets a fresh default group of exactly its size. They start at the first call, all at once;
    one that died or hung is replaced at the next.
    """

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        # One process imports torch and does nothing else; workers are its forks, and there in milliseconds.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["torch.distributed", "adamesh.optimizer", "tests.process_pool"])
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._numbers = itertools.count()
        self._workers: list[Worker | None] = [None] * num_workers
        self._starting: list[Connection] = []

    def run(
        self,
        num_ranks: int,
        fn: Callable[..., Any],
        *args: Any,
        return_exceptions: bool = False,
        timeout_s: float = 60.0,
    ) -> list[Any]:
        """Call the module-level ``fn(*args)`` in ``num_ranks`` processes at once; returns results by rank.

        What a rank raised is raised here, with that rank's traceback as a note: the lowest rank's that is
        not a communication error, since those mostly are consequences. Or returned in place, if asked.
        """
        assert 1 <= num_ranks <= self.num_workers, (num_ranks, self.num_workers)
        number = next(self._numbers)
        call = pickle.dumps((fn, args))
        workers = [self._worker(index) for index in range(self.num_workers)][:num_ranks]
        self._await_starts()
        for rank, worker in enumerate(workers):
            worker.connection.send_bytes(pickle.dumps(Task(number, rank, num_ranks, call)))
        outcomes = self._collect(workers, timeout_s)
        self._disband(workers)
        errors = {rank: error for rank, (_, error) in outcomes.items() if error is not None}
        if errors and not return_exceptions:
            raise errors[min(errors, key=lambda rank: (is_consequence(errors[rank]), rank))]
        return [errors.get(rank, outcomes[rank][0]) for rank in range(num_ranks)]

    def close(self) -> None:
        for worker in self._workers:
            if worker is not None:
                worker.process.kill()  # between tasks there is nothing to finish, and a clean end takes a second
        for worker in self._workers:
            if worker is not None:
                worker.process.join()
                worker.connection.close()
        self._workers = [None] * self.num_workers

    def _worker(self, index: int) -> Worker:
        worker = self._workers[index]
        if worker is None:
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=serve, args=(theirs, self._store.port), name=f"worker {index}", daemon=True
            )
            process.start()
            theirs.close()  # so that the worker's death closes the pipe
            worker = self._workers[index] = Worker(process, ours)
            self._starting.append(ours)
        return worker

    def _await_starts(self) -> None:
        """Importing torch takes a busy machine longer than the workers, once they have a task, wait for each other."""
        while self._starting:
            assert self._starting[-1].poll(START_TIMEOUT_S), "a worker process did not start"
            assert self._starting.pop().recv_bytes() == READY

    def _collect(self, workers: list[Worker], timeout_s: float) -> dict[int, tuple[Any, Exception | None]]:
        """Every rank's (result, error)."""
        outcomes: dict[int, tuple[Any, Exception | None]] = {}
        deadline = time.monotonic() + timeout_s
        while len(outcomes) < len(workers):
            waited_for = {worker.connection: rank for rank, worker in enumerate(workers) if rank not in outcomes}
            ready = wait(list(waited_for), timeout=max(0.0, deadline - time.monotonic()))
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waited_for[connection]
                try:
                    outcomes[rank] = pickle.loads(connection.recv_bytes())
                except (EOFError, ConnectionResetError):
                    exitcode = self._discard(rank)
                    outcomes[rank] = (None, WorkerDied(f"rank {rank} ended with exit code {exitcode}"))
            if not ready:
                for rank in waited_for.values():
                    pid = workers[rank].process.pid
                    assert pid is not None
                    os.kill(pid, signal.SIGABRT)  # faulthandler shows where it hangs
                    self._discard(rank)
                    outcomes[rank] = (None, WorkerHung(f"rank {rank} gave no answer in {timeout_s} s"))
        return outcomes

    def _disband(self, workers: list[Worker]) -> None:
        """Only now, when all have answered, may groups be destroyed: the others might still read."""
        for index, worker in enumerate(workers):
            if self._workers[index] is worker:
                worker.connection.send_bytes(b"")

    def _discard(self, index: int) -> int | None:
        worker = self._workers[index]
        assert worker is not None
        self._workers[index] = None
        worker.process.join(5)
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        return worker.process.exitcode


def is_consequence(error: Exception) -> bool:
    """Whether another rank is to blame, as our communicators or torch's own collectives tell it."""
    return isinstance(error, CommunicationError) or "gloo/transport" in str(error)


def serve(connection: Connection, port: int) -> None:
    """A worker's life."""
    faulthandler.enable()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    store = TCPStore("127.0.0.1", port, is_master=False)
    try:
        connection.send_bytes(READY)
        while True:
            task = pickle.loads(connection.recv_bytes())
            connection.send_bytes(perform(task, store))
            connection.recv_bytes()  # all have answered
            if dist.is_initialized():
                dist.destroy_process_group()
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return  # the pool was closed


def perform(task: Task, store: Store) -> bytes:
    """Run a task; returns the pickled (result, error)."""
    try:
        fn, args = pickle.loads(task.call)  # imports modules, which may take its time, before anybody waits for it
        dist.init_process_group(
            "gloo",
            store=PrefixStore(f"task {task.number}", store),
            rank=task.rank,
            world_size=task.num_ranks,
            timeout=GROUP_TIMEOUT,
        )
        return pickle.dumps((fn(*args), None))
    except Exception as error:
        if dist.is_initialized():
            dist.destroy_process_group()  # at once: whoever waits for this rank learns it from the connection
        return pickled_error(error, task.rank)


def pickled_error(error: Exception, rank: int) -> bytes:
    note = f"--- on rank {rank} ---\n{traceback.format_exc()}"
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.__traceback__ = None
    error.add_note(note)
    return pickle.dumps((None, error))
