"""The sentinel: a thread beside each worker that hears the others, notices who is lost, and votes on who goes on.

It never waits for the worker, whose thread may be anywhere. What the worker says and asks goes through attributes and
one condition, ``changed``.
"""

import threading
import time
from collections.abc import Callable, Sequence

from adamesh.membership.consensus import Consensus
from adamesh.membership.hearsay import Hearsay
from adamesh.membership.links import Link
from adamesh.membership.messages import Beat, Decided, Knock, Message, Want
from adamesh.membership.progress import STARTING
from adamesh.membership.roster import Member, Roster
from adamesh.membership.settings import Patience
from adamesh.membership.switchboard import Ended, Refused, Said, Switchboard

__all__ = ["Sentinel"]

_REDIAL_S = 0.02


class Sentinel:
    """One worker's sentinel. It listens from the beginning; `start` lets its thread run.

    Args:
        name: of this worker.
        host: where others reach this host.
        token: the run's secret.
        patience: how soon others are given up.
        alarm: called in the sentinel's thread as soon as somebody of an epoch is known to be lost, with the epoch.
    """

    def __init__(self, name: str, host: str, token: str, patience: Patience, alarm: Callable[[int], None]) -> None:
        self._board = Switchboard(name, host, token)
        self._patience = patience
        self._alarm = alarm
        self._thread = threading.Thread(target=self._run, name=f"adamesh sentinel {name}", daemon=True)
        self._consensus: Consensus | None = None
        self._addresses: list[Member] = []
        self._newcomers: dict[str, tuple[Member, float]] = {}
        self._hearsay = Hearsay(patience)
        self._redial: dict[Member, float] = {}
        self._entered = -1
        self._broken = -1
        self._beat_at = 0.0
        self._heard_at = 0.0
        self._closing = False
        self.me = self._board.me
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        """What has ended the sentinel, if something has."""
        self.first_sign: float | None = None
        """When the first sign of the change under way was seen, by the monotonic clock."""
        self.deaf: set[str] = set()
        """For tests: members from which nothing arrives and to which nothing is sent."""
        self.lines: dict[str, str] = {}
        self.leaving = False
        self.step, self.phase, self.moves, self.waits = 0, STARTING, 0, False

    # --- what the worker asks ----------------------------------------------------------------------------------

    @property
    def roster(self) -> Roster | None:
        """The epoch that the sentinel is in; None before the first."""
        return None if self._consensus is None else self._consensus.roster

    @property
    def expelled(self) -> Roster | None:
        """The roster of an epoch that is without this worker, if there is one."""
        return None if self._consensus is None else self._consensus.expelled

    @property
    def broken(self) -> int:
        """The last epoch in which somebody is known to be lost; -1 if there is none."""
        return self._broken

    @property
    def restless(self) -> bool:
        """Somebody wants to come or to go."""
        return self.leaving or bool(self._newcomers) or self._hearsay.anybody_leaves

    @property
    def silence_s(self) -> float:
        """For how long nobody at all was heard."""
        return time.monotonic() - self._heard_at

    def line_of(self, name: str, key: str) -> str | None:
        """What another member has said about its end of a group that is being built."""
        return self._hearsay.line_of(name, key)

    def start(self, roster: Roster | None, knock_at: Sequence[tuple[str, int]] = ()) -> None:
        """Let the thread run: as a member of an epoch, or as a newcomer that asks at these addresses."""
        self._heard_at = now = time.monotonic()
        if roster is not None:
            self._consensus = Consensus(self.me.name, roster)
            self._hearsay.enter(roster.names, now)
        self._addresses = [Member("", host, port) for host, port in knock_at]
        self._thread.start()

    def tell(self) -> None:
        """Let the others know at once what has changed about this worker."""
        self._beat_at = 0.0
        self._board.wake()

    def end(self, epoch: int, broken: bool) -> None:
        """The worker has done with an epoch; ``broken`` if others may wait for it there in vain."""
        with self.changed:
            consensus = self._consensus
            if consensus is not None and consensus.roster.epoch == epoch and consensus.expelled is None:
                if broken:
                    self._broken = max(self._broken, epoch)
                self._sign()
                consensus.want(time.monotonic())
        self.tell()

    def close(self) -> None:
        """Say no more. To the others this worker is dead."""
        self._closing = True
        if self._thread.is_alive():
            self._board.wake()
            if threading.current_thread() is not self._thread:
                self._thread.join()
        else:
            self._board.close()

    # --- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._board.close()
            with self.changed:
                self.changed.notify_all()
            self._alarm(self._broken if self.failure is None else 2**62)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closing:
            pause_s = self._pause(last)
            ready = self._board.poll(pause_s)
            now = time.monotonic()
            stall_s = now - last - pause_s
            last = now
            with self.changed:
                before = self._broken
                self._round(ready, now, stall_s)
                self.changed.notify_all()
            if self._broken > before:
                self._alarm(self._broken)

    def _pause(self, now: float) -> float:
        due = min((self._beat_at, *self._redial.values()))
        return min(max(0.0, due - now), self._patience.beat_s)

    def _round(self, ready: list, now: float, stall_s: float) -> None:  # type: ignore[type-arg]
        if stall_s > self._patience.beat_s:
            self._hearsay.forgive(stall_s, now, usual=self.phase != STARTING)
        self._speak()  # the worker may have ended the epoch since
        for event in self._board.serve(ready, now):
            match event:
                case Said(link=link, message=message):
                    if link.name not in self.deaf:
                        self._hear(link, message, now)
                case Ended(link=link) if link.target is not None:
                    self._redial[link.target] = now if link.name is not None else now + _REDIAL_S
                case Refused(target=target):
                    self._hearsay.refuse(target.name)
                    self._redial[target] = now + _REDIAL_S
            self._speak()
        if self._consensus is not None:
            self._judge(self._consensus, now)
            self._consensus.tick(now)
        self._speak()
        self._call(now)
        self._beat(now)

    def _hear(self, link: Link, message: Message, now: float) -> None:
        name = link.name
        assert name is not None
        self._heard_at = now
        self._hearsay.hear(name, now)
        consensus = self._consensus
        match message:
            case Knock(member=member) if member.name == name and consensus is not None and consensus.expelled is None:
                if name not in consensus.roster.names:
                    if name not in self._newcomers:
                        self._sign()
                    self._newcomers[name] = (member, now)
                self._board.send(name, Decided(consensus.roster), over=link)
            case Decided(roster=roster) if consensus is None:
                self._learn(roster, now)
            case Beat() if consensus is not None:
                self._take(name, message, consensus, now)
            case _ if consensus is not None:
                consensus.receive(name, message, now)

    def _take(self, name: str, beat: Beat, consensus: Consensus, now: float) -> None:
        if beat.epoch != consensus.roster.epoch:
            consensus.receive(name, Want(beat.epoch), now)
        if name not in consensus.roster.names:
            return
        self._hearsay.take(name, beat, now)
        if beat.broken and beat.epoch == consensus.roster.epoch:
            self._break(consensus, now)

    def _learn(self, roster: Roster, now: float) -> None:
        """A newcomer hears who is there."""
        if self.me.name in roster.names:
            self._consensus = Consensus(self.me.name, roster)
            self._hearsay.enter(roster.names, now)
            self._addresses = []
            self._sign()
        else:
            self._addresses = list(dict.fromkeys((*self._addresses, *roster.members)))

    def _judge(self, consensus: Consensus, now: float) -> None:
        if consensus.expelled is not None:
            return
        epoch = consensus.roster.epoch
        others = [name for name in consensus.roster.names if name not in (self.me.name, *consensus.dead)]
        doubts = dict.fromkeys(self._hearsay.silent(others, now), "silent")
        for name in self._hearsay.dead([name for name in others if name not in doubts], self._board.listens_to):
            consensus.lose(name, now)
        if consensus.roster.epoch == epoch and consensus.expelled is None:
            self._hearsay.compare_with(self.me.name, self._own_beat(consensus), now)
            if not doubts and not consensus.over:
                hung = self._hearsay.hung((*others, self.me.name), epoch, now) - {self.me.name}
                doubts |= dict.fromkeys(hung, "hung")
            doubts |= {name: how for name, how in consensus.view.suspects.items() if how == "hung" and name in others}
            known = set(consensus.roster.names)
            newcomers = [member for member, last in self._newcomers.values() if member.name not in known]
            consensus.see(doubts, self.leaving, newcomers, now)
            if doubts or consensus.dead:
                self._break(consensus, now)
                consensus.want(now)

    def _break(self, consensus: Consensus, now: float) -> None:
        if self._broken < consensus.roster.epoch:
            self._broken = consensus.roster.epoch
            self._beat_at = now
            self._sign()

    def _sign(self) -> None:
        if self.first_sign is None:
            self.first_sign = time.monotonic()

    def _speak(self) -> None:
        """Let out what consensus has to say, and go with it into a new epoch."""
        consensus = self._consensus
        if consensus is None:
            return
        outbox, consensus.outbox = consensus.outbox, []
        for name, message in outbox:
            if name not in self.deaf:
                self._board.send(name, message)
        if consensus.expelled is not None:
            self._broken = max(self._broken, consensus.roster.epoch)
        elif consensus.roster.epoch != self._entered:
            self._enter(consensus.roster)

    def _enter(self, roster: Roster) -> None:
        now = time.monotonic()
        self._entered = roster.epoch
        if any(why != "left" for why in roster.gone.values()):
            self._broken = max(self._broken, roster.epoch - 1)
        self._hearsay.enter(roster.names, now)
        for name in roster.names:
            self._newcomers.pop(name, None)
        self._board.hang_up(keep=set(roster.names))
        self._redial = {}
        self._beat_at = now

    def _call(self, now: float) -> None:
        """See to it that everybody who should be is connected, or called again."""
        consensus = self._consensus
        if consensus is None:
            wanted = self._addresses
        else:
            wanted = [m for m in consensus.roster.members if m.name != self.me.name and m.name not in consensus.dead]
            for name, (_, last) in list(self._newcomers.items()):
                if now - last > self._patience.silence_s and not self._board.listens_to(name):
                    del self._newcomers[name]
        self._redial = {member: at for member, at in self._redial.items() if at > now}
        for member in wanted:
            if member not in self._redial and member.name not in self.deaf:
                self._board.call(member, now)

    def _own_beat(self, consensus: Consensus) -> Beat:
        epoch = consensus.roster.epoch
        return Beat(
            epoch=epoch,
            step=self.step,
            phase=self.phase,
            moves=self.moves,
            waits=self.waits,
            broken=self._broken >= epoch,
            leaving=self.leaving,
            process=self._hearsay.process,
            lines=dict(self.lines),
        )

    def _beat(self, now: float) -> None:
        if now < self._beat_at:
            return
        self._beat_at = now + self._patience.beat_s
        consensus = self._consensus
        if consensus is None:
            self._board.broadcast(Knock(self.me))
        elif consensus.expelled is None:
            beat = self._own_beat(consensus)
            for name in consensus.roster.names:
                if name != self.me.name and name not in self.deaf:
                    self._board.send(name, beat)
