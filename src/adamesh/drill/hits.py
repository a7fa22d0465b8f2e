"""What a drill does to a run, one kind of fault at a time, and what it sees of the consequences."""

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from adamesh.drill.names import FaultName
from adamesh.drill.notes import REGROUP, WHOLE_STEP, Worker
from adamesh.drill.session import Session
from adamesh.train.rehearsal import MADE, order

__all__ = ["Hit", "Hitter"]

_TIMEOUT_S = 90.0
_ASLEEP_S = 0.3
"""How long a stopped worker stays stopped after the others have gone on without it."""
_SLOW_S, _SLOW_STEPS = 2.0, 50
_STOPPED_S, _RUNNING_S = 0.02, 0.01
_MOST_STEPS = 12


@dataclass(frozen=True)
class Hit:
    """One fault, and what became of it. Times are in seconds; None: there is no such thing."""

    fault: FaultName
    victim: str
    """The worker's name, or the newcomer's."""
    step: int
    """That the others were at."""
    detection_s: float | None
    """From the fault to the last worker that stopped waiting for the one that was lost."""
    recovery_s: float | None
    """From the fault to the last worker's first step made afterwards."""
    stall_s: float
    """The longest that a worker that was there all the time waited between two steps."""
    whole_s: float | None = None
    """From the fault until as many workers as before made steps together."""


class Hitter:
    """Hits a run's workers at random moments.

    Args:
        session: the run.
        draw: random numbers.
        respawn: lost workers come again; else they stay away.
        durations: how long the phases of a step usually last, seconds, for faults in the middle of one.
    """

    def __init__(self, session: Session, draw: random.Random, *, respawn: bool, durations: Mapping[str, float]) -> None:
        self._session = session
        self._draw = draw
        self._respawn = respawn
        self._durations = durations
        self.there = session.config.nproc
        """Workers that there are, or will be soon."""

    def hit(self, fault: FaultName) -> Hit:
        """Wait for a random moment at which all workers train, hit one, and wait until training goes on.

        Raises:
            Ended: the run has ended before.
            AdameshError: training does not go on.
        """
        self._await_whole()
        begun, some = self._steps, self._draw.randint(2, _MOST_STEPS)
        self._session.await_(lambda: self._steps >= begun + some, _TIMEOUT_S, f"{some} steps")
        self._session.rest(self._draw.uniform(0.0, self._durations[WHOLE_STEP]))
        kinds: dict[FaultName, Callable[[Worker], Hit]] = {
            "kill": self._kill,
            "stop": self._stop,
            "cut": self._cut,
            "slow": self._slow,
            "kill-commit": lambda victim: self._kill_in("commit", "kill-commit", victim),
            "kill-checkpoint": lambda victim: self._kill_in("saving", "kill-checkpoint", victim),
            "join": lambda _: self._join(),
            "leave": self._leave,
        }
        victims = sorted(self._session.notes.training, key=lambda worker: worker.identity.pid)
        return kinds[fault](self._draw.choice(victims))

    def _await_whole(self) -> None:
        def whole() -> bool:
            return len(self._session.notes.training) >= self.there

        with self._session.slowly():
            self._session.await_(whole, _TIMEOUT_S, f"{self.there} workers that train")

    @property
    def _steps(self) -> int:
        """That were made."""
        return max((worker.steps for worker in self._session.notes.training), default=0)

    # -- faults ------------------------------------------------------------------------------------------------

    def _kill(self, victim: Worker) -> Hit:
        return self._after(self._send(victim, signal.SIGKILL), "kill", victim)

    def _kill_in(self, phase: str, fault: FaultName, victim: Worker) -> Hit:
        began_s = time.monotonic()
        delay_s = self._draw.uniform(0.0, self._durations.get(phase, 0.0))
        order(self._session.orders, victim.identity.pid, phase, delay_s)
        dead = lambda: victim.dies_at(began_s) is not None  # noqa: E731
        self._session.await_(dead, _TIMEOUT_S, f"the phase {phase} of worker {victim.identity.name}")
        died_s = victim.dies_at(began_s)
        assert died_s is not None
        return self._after(died_s, fault, victim)

    def _stop(self, victim: Worker) -> Hit:
        at_s = self._send(victim, signal.SIGSTOP)
        try:
            self._await_recovery(at_s, victim)
            with self._session.slowly():
                self._session.rest(_ASLEEP_S)
        finally:
            if victim.alive:
                os.kill(victim.identity.pid, signal.SIGCONT)
        with self._session.slowly():
            self._session.await_(lambda: not victim.alive, _TIMEOUT_S, "the end of a worker that has woken up")
        return self._after(at_s, "stop", victim)

    def _cut(self, victim: Worker) -> Hit:
        hosts = self._session.hosts
        assert hosts is not None
        host = victim.identity.rank
        at_s = time.monotonic()
        hosts.cut(host)
        try:
            self._await_recovery(at_s, victim)
            with self._session.slowly():
                self._session.rest(_ASLEEP_S)
        finally:
            hosts.cut(host, connected=True)
        with self._session.slowly():
            self._session.await_(lambda: not victim.alive, _TIMEOUT_S, "the end of a worker that was cut off")
        return self._after(at_s, "cut", victim)

    def _slow(self, victim: Worker) -> Hit:
        """A third of its speed, for some time."""
        at_s, pid, begun = time.monotonic(), victim.identity.pid, self._steps
        while time.monotonic() < at_s + _SLOW_S and victim.alive and self._steps < begun + _SLOW_STEPS:
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(_STOPPED_S)
            finally:
                os.kill(pid, signal.SIGCONT)
            time.sleep(_RUNNING_S)
            self._session.notes.read()
        end_s = time.monotonic()
        self._session.await_(
            lambda: all(worker.first(MADE, end_s) for worker in self._session.notes.training),
            _TIMEOUT_S,
            "a step after the slow one is itself again",
        )
        there = self._session.notes.training
        regrouped = [note.at_s for worker in there if (note := worker.first(REGROUP, at_s))]
        stall_s = max(worker.stall_s(at_s, end_s) for worker in there)
        detection_s = max(regrouped) - at_s if regrouped else None
        return Hit("slow", victim.identity.name, self._step_at(at_s), detection_s, None, stall_s)

    def _join(self) -> Hit:
        before = set(self._session.notes.workers)
        at_s = time.monotonic()
        self._session.add(["join", str(self._session.folder)])
        self.there += 1
        with self._session.slowly():
            self._session.await_(
                lambda: any(pid not in before for pid in self._session.notes.workers), _TIMEOUT_S, "a newcomer"
            )
        self._session.await_(
            lambda: any(pid not in before and one.trains for pid, one in self._session.notes.workers.items()),
            _TIMEOUT_S,
            "a newcomer that trains",
        )
        newcomer = next(one for pid, one in self._session.notes.workers.items() if pid not in before and one.trains)
        return self._after(at_s, "join", newcomer)

    def _leave(self, victim: Worker) -> Hit:
        at_s = self._send(victim, signal.SIGTERM)
        self.there -= 1
        hit = self._after(at_s, "leave", victim)
        self._session.await_(lambda: not victim.alive, _TIMEOUT_S, "the end of a worker that leaves")
        return hit

    # -- consequences ------------------------------------------------------------------------------------------

    @staticmethod
    def _send(victim: Worker, number: signal.Signals) -> float:
        at_s = time.monotonic()
        os.kill(victim.identity.pid, number)
        return at_s

    def _survivors(self, at_s: float, victim: Worker) -> list[Worker]:
        """Those that trained before the fault, are there, and are not its victim."""
        others = [worker for worker in self._session.notes.training if worker is not victim]
        return [worker for worker in others if any(note.at_s <= at_s and note.phase == MADE for note in worker.notes)]

    @staticmethod
    def _recovered(worker: Worker, at_s: float) -> float | None:
        regroup = worker.first(REGROUP, at_s)
        made = None if regroup is None else worker.first(MADE, regroup.at_s)
        return None if made is None else made.at_s

    def _await_recovery(self, at_s: float, victim: Worker) -> None:
        def recovered() -> bool:
            survivors = self._survivors(at_s, victim)
            return bool(survivors) and all(self._recovered(worker, at_s) is not None for worker in survivors)

        self._session.await_(recovered, _TIMEOUT_S, f"a step without worker {victim.identity.name}")

    def _after(self, at_s: float, fault: FaultName, victim: Worker) -> Hit:
        """Wait until training goes on everywhere, and until all are there again if they will be."""
        self._await_recovery(at_s, victim)
        survivors = self._survivors(at_s, victim)
        recovered_s = [found for worker in survivors if (found := self._recovered(worker, at_s)) is not None]
        noticed_s = [note.at_s for worker in survivors if (note := worker.first(REGROUP, at_s))]
        whole_s = None
        if self._respawn and fault not in ("join", "leave"):
            self._await_whole()
            new = [worker for worker in self._session.notes.training if worker.notes[0].at_s > at_s]
            whole_s = max(note.at_s for worker in new if (note := worker.first(MADE, at_s))) - at_s if new else None
        elif fault not in ("join", "leave"):
            self.there -= 1
        end_s = max(recovered_s)
        return Hit(
            fault,
            victim.identity.name,
            self._step_at(at_s),
            max(noticed_s) - at_s if fault not in ("join", "leave") else None,
            end_s - at_s,
            max(worker.stall_s(at_s, end_s) for worker in survivors),
            whole_s,
        )

    def _step_at(self, at_s: float) -> int:
        steps = (note.step for one in self._session.notes.workers.values() for note in one.notes if note.at_s <= at_s)
        return max(steps, default=0)
