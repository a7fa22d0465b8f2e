"""Samples of the tickets that this worker draws, prepared while the model computes."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from adamesh.data.sampler import share
from adamesh.train.loader import Part, prepared
from adamesh.train.run import Run
from adamesh.train.tickets import Tickets

__all__ = ["Ticket", "TicketLoader"]


@dataclass(frozen=True)
class Ticket:
    """What to train on next."""

    number: int
    parts: tuple[Part, ...]

    @property
    def samples(self) -> int:
        return sum(part.samples for part in self.parts)


class TicketLoader:
    """Draws tickets and prepares their samples, one ahead if the run prepares ahead at all.

    No further ahead: what a slow worker has drawn, it must train on before all can pause.
    """

    def __init__(self, run: Run, tickets: Tickets) -> None:
        self._run = run
        self._tickets = tickets
        self._sampler = run.sampler()
        self._ahead = min(1, run.config.prefetch)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="adamesh-loader")
        self._coming: deque[Future[Ticket | None]] = deque()

    def next(self) -> Ticket | None:
        """The ticket whose turn it is, again and again until it is `used`."""
        while len(self._coming) < 1 + self._ahead:
            self._coming.append(self._thread.submit(self._prepare))
        return self._coming[0].result()

    def used(self) -> None:
        """Go on to the one after."""
        self._coming.popleft()

    def close(self) -> None:
        """No more are needed."""
        self._thread.shutdown(cancel_futures=True)

    def _prepare(self) -> Ticket | None:
        number = self._tickets.draw()
        if number is None:
            return None
        step, part = divmod(number, self._run.workers.size)
        span = share(self._sampler.batch_samples(step), part, self._run.workers.size)
        return Ticket(number, prepared(self._run, self._sampler, step, part, span))
