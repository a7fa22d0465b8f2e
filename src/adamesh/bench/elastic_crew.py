"""The worker processes of ``adamesh bench elastic``, seen from outside: killed, stopped, and replaced by standbys."""

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from adamesh.bench.elastic_worker import Course, Made, live
from adamesh.errors import AdameshError

__all__ = ["Crew", "Hand"]

_TIMEOUT_S = 60.0


@dataclass(eq=False)
class Hand:
    """One worker process."""

    process: BaseProcess
    connection: Connection
    made: list[Made] = field(default_factory=list)
    words: list[Any] = field(default_factory=list)
    """All else that it has said."""
    lost: bool = False

    def send(self, number: signal.Signals) -> float:
        """Send a signal; returns when."""
        assert self.process.pid is not None
        at_s = time.monotonic()
        os.kill(self.process.pid, number)
        return at_s

    def tell(self, word: object) -> float:
        """Say something to it; returns when."""
        at_s = time.monotonic()
        self.connection.send(word)
        return at_s

    def first_in(self, epoch: int) -> Made | None:
        """Its first step of an epoch, or of a later one."""
        return next((made for made in self.made if made.epoch >= epoch), None)


class Crew:
    """A context with workers that train, and a standby.

    Args:
        course: what is trained.
        size: how many begin.
    """

    def __init__(self, course: Course, size: int) -> None:
        self._course = course
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["adamesh.bench.elastic_worker", "torch._dynamo"])
        self.hands: list[Hand] = []
        """Those that take part."""
        self.gone: list[Hand] = []
        self.suspected = 0
        """Workers that the others took for dead, though nothing was done to them."""
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.hands = [self._spawn((rank, size, port)) for rank in range(size)]
        self._standby: Hand | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hand in self._all():
            if hand.process.is_alive():
                hand.process.kill()
            hand.process.join()
            hand.connection.close()

    def prepare(self) -> None:
        """Start a standby, and wait until it is ready."""
        if self._standby is None:
            self._standby = standby = self._spawn(None)
            self.await_(lambda: "ready" in standby.words, "a standby")

    def replace(self) -> tuple[Hand, float]:
        """Let the standby join; returns it, and when it was told to."""
        assert self._standby is not None
        newcomer, self._standby = self._standby, None
        at_s = time.monotonic()
        newcomer.connection.send(self.newest.addresses)
        self.hands.append(newcomer)
        return newcomer, at_s

    def lose(self, hand: Hand) -> None:
        """It takes part no more."""
        self.hands.remove(hand)
        self.gone.append(hand)

    @property
    def newest(self) -> Made:
        """The step that was made last."""
        return max((hand.made[-1] for hand in self._all() if hand.made), key=lambda made: (made.epoch, made.step))

    @property
    def epoch(self) -> int:
        """The newest."""
        return max((hand.made[-1].epoch for hand in self._all() if hand.made), default=0)

    def await_(self, met: Callable[[], bool], what: str) -> None:
        """Hear what workers say until something is so.

        Raises:
            AdameshError: it takes too long.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        while not met():
            if time.monotonic() > deadline:
                raise AdameshError(f"waited for more than {_TIMEOUT_S:.0f} s: {what}")
            self.hear(0.1)
            self.miss()

    def miss(self) -> None:
        """Count those that the others have taken for dead."""
        for hand in [hand for hand in self.hands if "Expelled" in hand.words]:
            self.suspected += 1
            self.lose(hand)

    def hear(self, timeout_s: float) -> None:
        """Take in what workers have said, waiting for a word if there is none."""
        open_ = {hand.connection: hand for hand in self._all() if not hand.lost}
        for connection in wait(list(open_), timeout_s):
            assert isinstance(connection, Connection)
            hand = open_[connection]
            try:
                word = connection.recv()
            except (EOFError, ConnectionResetError):
                hand.lost = True
                continue
            (hand.made if isinstance(word, Made) else hand.words).append(word)

    def rest(self, seconds: float) -> None:
        """Listen for some time."""
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self.hear(left_s)

    def _all(self) -> list[Hand]:
        return [*self.hands, *self.gone, *([self._standby] if self._standby is not None else [])]

    def _spawn(self, founder: tuple[int, int, int] | None) -> Hand:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=live, args=(theirs, self._course, founder), daemon=True)
        process.start()
        theirs.close()
        return Hand(process, ours)
