"""Tickets: who trains on what, where every worker goes at its own speed.

Ticket ``u`` is part ``u % workers`` of global batch ``u // workers``, so that tickets, too, are arithmetic of the seed;
they are drawn from one counter, in order, each by one worker. Whoever is faster draws more, and every sample of an
epoch is drawn exactly once.
"""

import threading
from typing import Protocol

from adamesh.train.workers import Workers

__all__ = ["Tickets"]

_STOPPED = 1 << 40
"""Added to the counter when somebody stops the run: whoever draws later sees it in what it draws."""


class Counters(Protocol):
    """What is needed of a store that all workers share (torch's TCPStore has it)."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter that starts at 0; returns the new value."""

    def set(self, key: str, value: str) -> None:
        """Leave a value."""

    def get(self, key: str) -> bytes:
        """Wait for a value."""


class OwnCounters:
    """Counters of a worker that is alone, whose loader draws in a thread of its own."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._values: dict[str, bytes] = {}
        self._changed = threading.Condition()

    def add(self, key: str, amount: int) -> int:
        with self._changed:
            self._counts[key] = self._counts.get(key, 0) + amount
            return self._counts[key]

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self._values[key] = value.encode()
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: key in self._values)
            return self._values[key]


class Tickets:
    """This worker's way to the counter.

    Args:
        workers: who draws.
        done_steps: global batches that earlier starts of the run have trained on.
        total_steps: after how many the run ends.
    """

    def __init__(self, workers: Workers, done_steps: int, total_steps: int) -> None:
        self.stopped = False
        """Whether a draw has seen that somebody stopped the run."""
        self._size = workers.size
        self._first = done_steps * workers.size
        self._end = total_steps * workers.size
        self._counters: Counters = workers.store() or OwnCounters()

    def draw(self) -> int | None:
        """The next ticket, or None: there is none left before the end, or before where the run was stopped."""
        number = self._counters.add("drawn", 1) - 1
        if number >= _STOPPED and not self.stopped:
            self._end = int(self._counters.get("end"))
            self.stopped = True
        ticket = self._first + number % _STOPPED
        return ticket if ticket < self._end else None

    def stop(self) -> None:
        """End the run with the global batch that is being drawn. The first worker that says so counts."""
        if self._counters.add("stops", 1) == 1:
            drawn = self._first + self._counters.add("drawn", _STOPPED) - _STOPPED
            self._counters.set("end", str(min(-(-drawn // self._size) * self._size, self._end)))

    @property
    def end_steps(self) -> int:
        """Where the run ends, as far as this worker's draws have shown."""
        return self._end // self._size
