"""Real worker processes that found a company, make steps, and are killed, stopped or cut off."""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import time
import warnings
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Self

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from adamesh.comm.base import Communicator
from adamesh.company.terms import Terms
from adamesh.company.workers import Workers
from adamesh.errors import CommunicationError, Expelled, QuorumLost
from adamesh.membership.settings import Patience

HOST, TOKEN = "127.0.0.1", "a secret"
CHUNK = 3000


@dataclass(frozen=True)
class Report:
    """What a worker says."""

    what: str
    """"formed", "expelled", "quorum lost" or "ended"."""
    at: float
    epoch: int = -1
    names: tuple[str, ...] = ()
    origins: tuple[int | None, ...] = ()
    step: int = -1
    hows: tuple[str, ...] = ()
    seconds: float = 0.0
    message: str = ""
    addresses: tuple[tuple[str, int], ...] = ()


def context() -> Any:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["torch.distributed", "adamesh.company.workers", "tests.elastic.crew"])
    return made


class Life:
    """What goes on in a worker process."""

    def __init__(self, connection: Connection, company: Workers) -> None:
        self.connection = connection
        self.company = company
        self.step = 0

    def report(self, what: str, message: str = "") -> None:
        company = self.company
        formation = company.formation
        recent = [change for change in company.changes if change.epoch == formation.epoch]
        self.connection.send(
            Report(
                what,
                time.monotonic(),
                formation.epoch,
                formation.names,
                formation.origins,
                self.step,
                tuple(change.how for change in recent),
                max((change.seconds for change in recent), default=0.0),
                message,
                tuple((member.host, member.port) for member in company.members),
            )
        )

    def go(self) -> None:
        self.report("formed")
        try:
            while True:
                try:
                    if not self.make_step(self.company.formation.world):
                        continue
                    reason = "somebody comes or goes"
                except CommunicationError as error:
                    reason = str(error)
                self.company.regroup(reason)
                self.report("formed", reason)
                self.agree()
        except (Expelled, QuorumLost) as error:
            self.report("expelled" if isinstance(error, Expelled) else "quorum lost", str(error))
        self.company.close()

    def agree(self) -> None:
        with contextlib.suppress(CommunicationError):
            steps = self.company.formation.world.exchange(self.step.to_bytes(8, "little"), "step")
            self.step = max(int.from_bytes(said, "little") for said in steps)

    def make_step(self, world: Communicator) -> bool:
        """Returns whether the company is to regroup."""
        self.company.note(self.step, "step")
        self.obey()
        time.sleep(0.002)
        sent = torch.arange(world.size).repeat_interleave(CHUNK) + 100 * world.rank
        received = torch.full_like(sent, -1)
        world.all_to_all(received, sent).wait()
        for rank in range(world.size):
            if rank != world.rank:
                chunk = received[rank * CHUNK : (rank + 1) * CHUNK]
                assert bool((chunk == 100 * rank + world.rank).all()), chunk
        restless = any(said == b"\1" for said in world.exchange(bytes([self.company.restless]), "restless"))
        self.step += 1
        return restless

    def obey(self) -> None:
        while self.connection.poll():
            match self.connection.recv():
                case "leave":
                    self.company.leave()
                case ("deaf", names):
                    self.company._sentinel.deaf |= set(names)
                case ("hang", seconds):
                    time.sleep(seconds)
                case "close":
                    raise SystemExit


def live(connection: Connection, rank: int, size: int, port: int, addresses: Any, terms: Terms) -> None:
    faulthandler.enable()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    if addresses:
        company = Workers.join(addresses, terms)
    else:
        store = TCPStore(HOST, port, is_master=False)
        company = Workers.found(store, rank, size, terms)
    Life(connection, company).go()


@dataclass
class Hand:
    """One worker, seen from outside."""

    process: BaseProcess
    connection: Connection
    reports: list[Report] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self) -> float:
        os.kill(self.pid, signal.SIGKILL)
        return time.monotonic()

    def stop(self) -> float:
        os.kill(self.pid, signal.SIGSTOP)
        return time.monotonic()

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Crew:
    """Workers by number: the founders first, then those that join."""

    def __init__(self, size: int, patience: Patience | None = None) -> None:
        self.terms = Terms(HOST, TOKEN, patience=patience or Patience(quorum_s=5.0), timeout_s=60.0)
        self.hands: list[Hand] = []
        self._store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        for rank in range(size):
            self._spawn(rank, size, None)
        self.await_all(range(size), epoch=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for hand in self.hands:
            hand.process.kill()
        for hand in self.hands:
            hand.process.join()
            hand.connection.close()

    def join(self) -> Hand:
        return self._spawn(0, 0, self.last.addresses)

    @property
    def last(self) -> Report:
        return max((report for hand in self.hands for report in hand.reports), key=lambda report: report.epoch)

    def tell(self, number: int, order: Any) -> None:
        self.hands[number].connection.send(order)

    def name(self, number: int) -> str:
        """A founder's."""
        return self.hands[number].reports[0].names[number]

    def await_report(self, number: int, what: str = "formed", epoch: int = 0, timeout_s: float = 20.0) -> Report:
        """The first report of a kind, of an epoch at least."""
        hand = self.hands[number]
        deadline = time.monotonic() + timeout_s
        while True:
            for report in hand.reports:
                if report.what == what and report.epoch >= epoch:
                    return report
            left_s = max(0.0, deadline - time.monotonic())
            if not wait([hand.connection], timeout=left_s):
                raise AssertionError(f"worker {number} has not {what} epoch {epoch}: {hand.reports}")
            try:
                hand.reports.append(hand.connection.recv())
            except (EOFError, ConnectionResetError):
                raise AssertionError(f"worker {number} ended: {hand.reports}") from None

    def await_all(self, numbers: Any, epoch: int) -> list[Report]:
        return [self.await_report(number, epoch=epoch) for number in numbers]

    def _spawn(self, rank: int, size: int, addresses: Any) -> Hand:
        ours, theirs = context().Pipe()
        process = context().Process(
            target=live, args=(theirs, rank, size, self._store.port, addresses, self.terms), daemon=True
        )
        process.start()
        theirs.close()
        self.hands.append(Hand(process, ours))
        return self.hands[-1]
