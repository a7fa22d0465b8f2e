"""The company of worker processes."""

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from torch.distributed import Store  # type: ignore[attr-defined]

from adamesh.comm.company import Company, Formation
from adamesh.company.events import Change
from adamesh.company.founding import found_through, founding_store
from adamesh.company.meeting import Meeting
from adamesh.company.terms import Terms
from adamesh.errors import ConfigurationError, Expelled, PeerLost, QuorumLost
from adamesh.membership.roster import Member, Roster
from adamesh.membership.sentinel import Sentinel

__all__ = ["Workers"]

_RECHECK_S = 0.05


class Workers(Company):
    """One worker process's end of a company; made by `found` or `join`.

    One thread of the worker calls `regroup`, which may take long; `note`, `restless` and the properties cost nothing.
    """

    def __init__(self, label: str, terms: Terms, tell: Callable[[Change], None]) -> None:
        self.changes: list[Change] = []
        """Who has come and gone, oldest first."""
        self.listen: Callable[[int, str], None] | None = None
        """Called with all that is noted, by the thread that notes it, and with "regroup" when that begins."""
        self.farewell: Callable[[], None] = lambda: None
        """Called once, when this worker is about to be gone."""
        self._terms = terms
        self._tell = tell
        self._meeting: Meeting | None = None
        self._formation: Formation | None = None
        self._lock = threading.Lock()
        name = f"{terms.label or label}-{secrets.token_hex(4)}"
        self._sentinel = Sentinel(name, terms.host, terms.token, terms.patience, self._alarm)

    @classmethod
    def found(
        cls,
        store: Store | tuple[str, int],
        rank: int,
        size: int,
        terms: Terms,
        tell: Callable[[Change], None] = lambda change: None,
    ) -> Self:
        """Found a company with ``size - 1`` others. Collective.

        Args:
            store: where the founders meet, once: a store of torch's, or the address of one, which rank 0 will host.
            rank: this founder's number, 0 to ``size - 1``.
            size: how many founders there are.
            terms: of this worker.
            tell: called by the thread that regroups, with everyone who has come or gone.

        Raises:
            ConfigurationError: an argument is out of range.
            DistStoreError: somebody did not come in time.
        """
        if not 0 <= rank < size:
            raise ConfigurationError(f"rank={rank} must be at least 0 and less than size={size}")
        company = cls(str(rank), terms, tell)
        if isinstance(store, tuple):
            store = founding_store(*store, rank, size, terms.arrival_s)
        company._sentinel.start(found_through(store, company._sentinel.me, rank, size))
        company._regroup("", time.monotonic() + terms.arrival_s)
        return company

    @classmethod
    def join(
        cls,
        addresses: Sequence[tuple[str, int]],
        terms: Terms,
        tell: Callable[[Change], None] = lambda change: None,
    ) -> Self:
        """Ask to be let in; returns when the members have regrouped with this worker.

        Args:
            addresses: of members, see `members`; one that answers is enough.
            terms: of this worker.
            tell: called by the thread that regroups, with everyone who has come or gone.

        Raises:
            ConfigurationError: there is no address.
            QuorumLost: nobody let this worker in.
        """
        if not addresses:
            raise ConfigurationError("addresses=() names no member to ask")
        company = cls("new", terms, tell)
        company._sentinel.start(None, addresses)
        try:
            company._regroup("", time.monotonic() + terms.arrival_s)
        except BaseException:
            company.close()
            raise
        return company

    @property
    def formation(self) -> Formation:
        assert self._formation is not None
        return self._formation

    @property
    def restless(self) -> bool:
        return self._sentinel.restless

    @property
    def leaving(self) -> bool:
        return self._sentinel.leaving

    @property
    def name(self) -> str:
        """This worker's, which no other has."""
        return self._sentinel.me.name

    @property
    def members(self) -> tuple[Member, ...]:
        """The members of the epoch under way, by rank, with the addresses at which newcomers may ask."""
        assert self._meeting is not None
        return self._meeting.roster.members

    def note(self, step: int, phase: str) -> None:
        self._sentinel.step = step
        self._sentinel.phase = phase
        self._sentinel.moves += 1
        if self.listen is not None:
            self.listen(step, phase)

    def leave(self) -> None:
        """Ask to go: the company becomes restless, and regroups without this worker, whose `regroup` raises."""
        self._sentinel.leaving = True
        self._sentinel.tell()

    def close(self) -> None:
        """Be gone, without a word. Others take this worker for dead. Again, it does nothing.

        A process that ends need not do it; one that goes on, such as an actor of Ray's, would be there for newcomers,
        who would wait for it.
        """
        farewell, self.farewell = self.farewell, lambda: None
        farewell()
        self._sentinel.close()
        if self._meeting is not None:
            self._meeting.leave("this worker has left the company")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def regroup(self, reason: str) -> Formation:
        # A planned change: the others may still be reading the last of the step that ends the epoch.
        if self.listen is not None:
            self.listen(self._sentinel.step, "regroup")
        epoch = self.formation.epoch
        broken = self._sentinel.broken >= epoch or not self.restless
        if broken:
            self._sever(f"this worker gave up epoch {epoch}: {reason}")
        self._sentinel.end(epoch, broken)
        return self._regroup(reason, time.monotonic() + self._terms.patience.quorum_s)

    def _regroup(self, reason: str, deadline: float) -> Formation:
        """Meet the others in the next epoch; if that breaks, in the one after it, and so on."""
        before = self._formation
        left = self._meeting
        while True:
            roster = self._await_roster(-1 if self._meeting is None else self._meeting.roster.epoch, deadline)
            self._sentinel.lines = {}
            meeting = Meeting(self._sentinel, roster, self._terms.timeout_s)
            with self._lock:
                self._meeting = meeting
            try:
                self._await_meeting(meeting)
            except PeerLost:
                deadline = time.monotonic() + self._terms.patience.quorum_s
                self._sentinel.end(roster.epoch, broken=True)
                meeting.leave(f"epoch {roster.epoch} ended while its members were still meeting")
                continue
            break
        if left is not None:
            left.leave(f"epoch {left.roster.epoch} is over")
        return self._settle(before, roster, reason)

    def _await_roster(self, after: int, deadline: float) -> Roster:
        sentinel = self._sentinel
        with sentinel.changed:
            while True:
                if sentinel.failure is not None:
                    raise QuorumLost("this worker's sentinel has failed") from sentinel.failure
                if sentinel.expelled is not None:
                    raise Expelled(self._why_expelled(sentinel.expelled))
                roster = sentinel.roster
                if roster is not None and roster.epoch > after:
                    return roster
                left_s = deadline - time.monotonic()
                unheard = roster is None and sentinel.silence_s > self._terms.patience.start_s
                if left_s <= 0 or unheard:
                    raise QuorumLost(self._why_no_quorum(roster))
                sentinel.changed.wait(min(left_s, _RECHECK_S))

    def _await_meeting(self, meeting: Meeting) -> None:
        """Returns when all have met.

        Raises:
            PeerLost: they never will.
        """
        sentinel, epoch = self._sentinel, meeting.roster.epoch
        sentinel.waits = True
        try:
            with sentinel.changed:
                while meeting.world is None:
                    current = sentinel.roster
                    gone_on = current is None or current.epoch > epoch or sentinel.expelled is not None
                    if meeting.error is not None or gone_on or sentinel.broken >= epoch:
                        raise PeerLost(f"epoch {epoch} ended while its members were still meeting") from meeting.error
                    sentinel.changed.wait(_RECHECK_S)
        finally:
            sentinel.waits = False

    def _settle(self, before: Formation | None, roster: Roster, reason: str) -> Formation:
        names = before.names if before is not None else ()
        ranks = {name: rank for rank, name in enumerate(names)}
        origins = tuple(ranks.get(name) for name in roster.names)
        assert self._meeting is not None and self._meeting.world is not None
        self._formation = Formation(roster.epoch, self._meeting.world, origins, roster.names)
        first, self._sentinel.first_sign = self._sentinel.first_sign, None
        seconds = 0.0 if first is None else time.monotonic() - first
        fates = {name: roster.gone.get(name, "lost") for name in names if name not in roster.names}
        fates |= {name: "joined" for name in roster.names if before is not None and name not in names}
        for name, how in fates.items():
            change = Change(name, how, roster.epoch, self._sentinel.step, seconds, len(roster.members), reason)
            self.changes.append(change)
            self._tell(change)
        return self._formation

    def _alarm(self, epoch: int) -> None:
        """By the sentinel: nobody who waits in an epoch up to this one will get what it waits for."""
        with self._lock:
            meeting = self._meeting
        if meeting is not None and meeting.roster.epoch <= epoch:
            meeting.sever(f"epoch {meeting.roster.epoch} ended: a worker is lost")

    def _sever(self, reason: str) -> None:
        with self._lock:
            meeting = self._meeting
        if meeting is not None:
            meeting.sever(reason)

    def _why_expelled(self, roster: Roster) -> str:
        how = roster.gone.get(self.name)
        if self._sentinel.leaving and how in (None, "left"):
            return f"{self.name} has left the company in epoch {roster.epoch}, as it asked"
        return (
            f"the others went on in epoch {roster.epoch} without {self.name}"
            + (f", which they found {how}" if how else "")
            + "; nothing of this worker's is needed any more: let it join again as a new one"
        )

    def _why_no_quorum(self, roster: Roster | None) -> str:
        if roster is None:
            return (
                "no member lets this worker in: see whether the addresses and the token are those of a run that goes on"
            )
        return (
            f"of the {len(roster.members)} workers of epoch {roster.epoch} too few can be reached to be sure that the "
            "others are not going on elsewhere; see whether they do, or start again from the last checkpoint"
        )
