"""A company of threads: workers die where a test lets them, and those who are left regroup."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from adamesh.comm.company import Company, Formation
from adamesh.comm.faults import Fault
from adamesh.comm.threads import Group, Hub, join
from adamesh.errors import Expelled

__all__ = ["ThreadCompanies"]


@dataclass
class Muster:
    """Who has come to meet again, until all have that can."""

    present: set[int] = field(default_factory=set)
    epoch: int = 0
    group: Group | None = None
    """Those who have met."""


class ThreadCompanies:
    """Runs a function in threads, each with its own end of one company.

    Args:
        founders: workers that are there from the beginning.
        newcomers: workers that ask to be let in when :meth:`call` is called with their number; numbered behind the
            founders.
        faults: what happens to whom, as for `adamesh.comm.threads.ThreadWorld`; operations are counted over all epochs.
    """

    def __init__(
        self, founders: int, newcomers: int = 0, faults: Sequence[Fault] = (), timeout_s: float = 20.0
    ) -> None:
        self.size = founders + newcomers
        self._hub = Hub(self.size, faults, timeout_s)
        self._changed = threading.Condition()
        self._alive = set(range(founders))
        self._group = Group("epoch 0", tuple(range(founders)))
        self._asking: set[int] = set()
        self._leaving: set[int] = set()
        self._muster = Muster()
        self._epoch = 0
        self._founders = founders
        self._timeout_s = timeout_s

    @property
    def num_operations(self) -> list[int]:
        """How many operations each worker has launched."""
        return self._hub.num_operations

    def call(self, worker: int) -> None:
        """Let a newcomer ask to be let in."""
        with self._changed:
            self._asking.add(worker)
            self._alive.add(worker)
            self._changed.notify_all()

    def dismiss(self, worker: int) -> None:
        """Let a worker ask to go."""
        self._leaving.add(worker)

    def run(self, fn: Callable[["ThreadCompany"], Any]) -> list[Any]:
        """Call ``fn(company)`` as every worker; returns what each returned, or what it raised."""
        results: list[Any] = [None] * self.size

        def live(worker: int) -> None:
            try:
                results[worker] = fn(self._join(worker))
            except BaseException as error:
                results[worker] = error
            finally:
                with self._changed:
                    self._alive.discard(worker)
                    self._hub.end(worker)
                    self._gather()

        threads = [
            threading.Thread(target=live, args=(worker,), name=f"worker {worker}", daemon=True)
            for worker in range(self.size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self._timeout_s * 3)
        return results

    def _join(self, worker: int) -> "ThreadCompany":
        if worker < self._founders:
            first = self._group
            names = tuple(map(str, first.members))
            formation = Formation(0, join(self._hub, first, worker), (None,) * self._founders, names)
            return ThreadCompany(self, worker, formation, first)
        with self._changed:
            self._changed.wait_for(lambda: worker in self._asking, self._timeout_s)
        company = ThreadCompany(self, worker, None, None)
        company.regroup("new")
        return company

    def restless(self) -> bool:
        """Somebody asks to come or to go."""
        members = set(self._group.members)
        return bool((self._asking - members) & self._alive) or bool(self._leaving & members)

    def is_leaving(self, worker: int) -> bool:
        """This worker has been let ask to go."""
        return worker in self._leaving

    def meet(self, company: "ThreadCompany") -> Formation:
        """Wait until all that live have come."""
        worker = company.worker
        with self._changed:
            if company.group is not None:
                self._hub.leave(company.group, worker)  # whoever waits for it there will see it no more
            muster = self._muster
            muster.present.add(worker)
            self._gather()
            self._changed.wait_for(lambda: muster.group is not None, self._timeout_s)
            assert muster.group is not None, f"worker {worker} waited in vain for {self._alive - muster.present}"
        members, before = muster.group.members, () if company.group is None else company.group.members
        if worker not in members:
            raise Expelled(f"worker {worker} has asked to go, and the others have gone on without it")
        company.group = muster.group
        origins = tuple(before.index(member) if member in before else None for member in members)
        return Formation(muster.epoch, join(self._hub, muster.group, worker), origins, tuple(map(str, members)))

    def _gather(self) -> None:
        """Begin the next epoch, if all are there."""
        muster = self._muster
        if muster.present & self._alive and self._alive <= muster.present:
            self._epoch += 1
            muster.epoch = self._epoch
            members = tuple(sorted((muster.present & self._alive) - self._leaving))
            self._group = muster.group = Group(f"epoch {self._epoch}", members)
            self._muster = Muster()
            self._changed.notify_all()


class ThreadCompany(Company):
    """One worker's end."""

    def __init__(
        self, companies: ThreadCompanies, worker: int, formation: Formation | None, group: Group | None
    ) -> None:
        self.worker = worker
        self.group = group
        self._companies = companies
        self._formation = formation

    @property
    def formation(self) -> Formation:
        assert self._formation is not None, "it has not been let in yet"
        return self._formation

    @property
    def restless(self) -> bool:
        return self._companies.restless()

    @property
    def leaving(self) -> bool:
        return self._companies.is_leaving(self.worker)

    def regroup(self, reason: str) -> Formation:
        self._formation = self._companies.meet(self)
        return self._formation

    def note(self, step: int, phase: str) -> None:
        return None
