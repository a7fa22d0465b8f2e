"""Who goes on: single-decree Paxos per epoch among the epoch's members (Lamport 2001, "Paxos Made Simple").

What is decided is the roster of the next epoch. A pure state machine: no sockets, no threads, no clock; messages go in,
messages come out, and the time is told. Deviations from the paper, and why they are safe:

- *The dead vote by their last words.* Every vote is told to all members, to the ballot's candidate last. Whoever sees
  another's connection end, everything it said read before, therefore knows what it had committed itself to, and that it
  will never commit itself to anything else. Quorums are taken of the others: more than half of those that are not known
  to be dead, or half of them with the oldest. Let ``A`` have accepted a value, ``D`` being dead for its candidate, and
  ``R`` have promised a later ballot, ``E`` being dead for that one's. If a member of ``A`` is in ``E``, its last words
  show the value. A member of ``R`` in ``D`` would have shown the later ballot, so there is none. Else ``A`` and ``R``
  both lie in those that are in neither ``D`` nor ``E``, each of at least half of them, and exactly half only if
  ``D = E``, where both hold the oldest: they meet.
- Votes are sent whole, so one message is promise, acceptance and refusal.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from adamesh.membership.messages import (
    Ballot,
    Decided,
    Message,
    Prepare,
    Proposal,
    Propose,
    View,
    Vote,
    Voted,
    Want,
)
from adamesh.membership.roster import Member, Roster

__all__ = ["Consensus", "is_quorum", "who_stays"]

_RESEND_S = 0.1
_PATIENCE_S = 3.0
"""How long a candidate that has a quorum waits for a member that it hears and that does not answer."""
_COURTESY_S = 0.3
"""How long a candidate leaves the field to another before it bids higher; times its rank plus one."""


def is_quorum(members: Sequence[str], votes: Collection[str], dead: Collection[str]) -> bool:
    """Whether ``votes`` are more than half of the members that are not dead, or half of them with the oldest."""
    counted = [name for name in members if name not in dead]
    num_votes = sum(name in votes for name in counted)
    return 2 * num_votes > len(counted) or (num_votes > 0 and 2 * num_votes == len(counted) and counted[0] in votes)


def who_stays(members: Sequence[Member], views: Mapping[str, View], dead: Collection[str]) -> tuple[Member, ...]:
    """The next epoch's members, by what those say that have promised.

    Who is not heard by another cannot work with it, so of each two one has to go: the one with most such quarrels, of
    equals the one more often accused, of equals the youngest. Newcomers come behind, by name.
    """
    stay = [m for m in members if m.name in views and m.name not in dead and not views[m.name].leaving]
    while True:
        names = {member.name for member in stay}
        accusations = [(by, of) for by in names for of in views[by].suspects if of in names and of != by]
        if not accusations:
            break
        quarrels = {frozenset(pair) for pair in accusations}
        worst = max(
            range(len(stay)),
            key=lambda index: (
                sum(stay[index].name in pair for pair in quarrels),
                sum(stay[index].name == of for _, of in accusations),
                index,
            ),
        )
        del stay[worst]
    if not stay:
        return ()  # newcomers alone would know nothing
    known = {member.name for member in members}
    newcomers = {n.name: n for view in views.values() for n in view.newcomers if n.name not in known}
    return (*stay, *(newcomers[name] for name in sorted(newcomers)))


def _both(one: Vote, other: Vote) -> Vote:
    """What somebody has committed itself to of whom two things are known."""
    proposals = [vote.accepted for vote in (one, other) if vote.accepted is not None]
    return Vote(
        promised=max(one.promised, other.promised),
        accepted=max(proposals, key=lambda proposal: proposal.ballot, default=None),
    )


@dataclass
class Candidacy:
    """A ballot of this member's under way."""

    ballot: Ballot
    proposal: Proposal | None = None
    """Once there is a quorum of promises."""
    quorum_at: float | None = None


class Consensus:
    """One member's part in deciding who goes on.

    Args:
        me: this member's name.
        roster: the epoch under way, which this member is in.
    """

    def __init__(self, me: str, roster: Roster) -> None:
        self.me = me
        self.outbox: list[tuple[str, Message]] = []
        """(to whom, what), in the order in which it has to leave."""
        self.expelled: Roster | None = None
        """The roster of an epoch that is without this member."""
        self.view = View()
        self.enter(roster)

    def enter(self, roster: Roster) -> None:
        """Begin an epoch, knowing nothing against anybody."""
        assert self.me in roster.names, (self.me, roster)
        self.roster = roster
        self.over = False
        self.view = replace(self.view, dead={}, suspects={})
        self.votes = dict.fromkeys(roster.names, Vote())
        self.views: dict[str, View] = {}
        self.candidacy: Candidacy | None = None
        self.candidate_from = 0.0
        self.resend_at = 0.0

    @property
    def dead(self) -> dict[str, Vote]:
        """Of this epoch's members: those that are certain to be dead, with their last words."""
        return self.view.dead

    def want(self, now: float) -> None:
        """The epoch is over for this member. There is no way back."""
        if not self.over and self.expelled is None:
            self.over = True
            self._tell_all(Want(self.roster.epoch))
            self.tick(now)

    def lose(self, name: str, now: float) -> None:
        """A member is certain to be dead, and everything that it said has been given to `receive`."""
        if name in self.votes and name not in self.dead:
            self._bury({name: self.votes[name]})
            self._say_again()
            self.want(now)
            self.tick(now)

    def see(self, suspects: Mapping[str, str], leaving: bool, newcomers: Sequence[Member], now: float) -> None:
        """What this member knows besides: whom it doubts, and why (until it sees otherwise); who comes and goes."""
        suspects = {name: how for name, how in suspects.items() if name in self.votes and name != self.me}
        view = replace(self.view, suspects=suspects, leaving=leaving, newcomers=tuple(newcomers))
        if view != self.view:
            self.view = view
            self._say_again()
            self.tick(now)

    def receive(self, sender: str, message: Message, now: float) -> None:
        """Take a message in."""
        if self.expelled is not None:
            return
        match message:
            case Decided(roster=roster):
                self._learn(roster)
            case Want(epoch=epoch) | Prepare(epoch=epoch) | Propose(epoch=epoch) | Voted(epoch=epoch):
                if epoch < self.roster.epoch:
                    self._tell(sender, Decided(self.roster))
                elif epoch > self.roster.epoch:
                    self._tell(sender, Want(self.roster.epoch))
                elif sender in self.votes:
                    self._take(sender, message, now)
                    self.tick(now)

    def tick(self, now: float) -> None:
        """Do what is due. To be called every few hundredths of a second as long as the epoch is over."""
        if self.expelled is not None or not self.over:
            return
        self._stand(now)
        while self._advance(now):
            pass
        self._resend(now)

    def _resend(self, now: float) -> None:
        if self.over and self.expelled is None and now >= self.resend_at:
            self.resend_at = now + _RESEND_S
            self._tell_all(Want(self.roster.epoch))
            self._say_again()
            if self.candidacy is not None:
                self._tell_all(self._request(self.candidacy))

    def _take(self, sender: str, message: Message, now: float) -> None:
        self.over = True
        vote = self.votes[self.me]
        match message:
            case Prepare(ballot=ballot) if ballot > vote.promised:
                self._vote(Vote(ballot, vote.accepted), sender, now)
            case Propose(proposal=proposal) if proposal.ballot >= vote.promised:
                self._vote(Vote(proposal.ballot, proposal), sender, now)
            case Prepare() | Propose():
                self._tell(sender, Voted(self.roster.epoch, vote, self.view))
            case Voted(vote=said, view=view):
                self.votes[sender] = _both(self.votes[sender], said)
                self.views[sender] = view
                if self._bury(view.dead):
                    self._say_again()

    def _vote(self, vote: Vote, candidate: str, now: float) -> None:
        """Commit this member. The candidate is told last: see the module's docstring."""
        self.votes[self.me] = vote
        self.views[self.me] = self.view
        if candidate != self.me:
            self.candidate_from = now + _COURTESY_S * (1 + self._rank)
        voted = Voted(self.roster.epoch, vote, self.view)
        self._tell_all(voted, but=candidate)
        self._tell(candidate, voted)

    def _bury(self, dead: Mapping[str, Vote]) -> bool:
        """Note who is certain to be dead; returns whether that is news. That others believe it of this one is not."""
        told = {name: vote for name, vote in dead.items() if name in self.votes and name != self.me}
        merged = self.dead | {name: _both(self.votes[name], vote) for name, vote in told.items()}
        news = merged != self.dead
        if news:
            self.votes |= merged
            self.view = replace(self.view, dead=merged)
            self.views[self.me] = self.view
        return news

    def _say_again(self) -> None:
        self.views[self.me] = self.view
        vote = self.votes[self.me]
        if vote != Vote():
            self._tell_all(Voted(self.roster.epoch, vote, self.view))

    def _stand(self, now: float) -> None:
        """Begin a ballot if it is up to this member: the oldest of those that it believes to be alive."""
        gone = {*self.dead, *self.view.suspects}
        alive = next(name for name in self.roster.names if name not in gone)
        highest = max(vote.promised for vote in self.votes.values())
        courteous = now < self.candidate_from and self.roster.names[highest[1]] not in gone
        if self.candidacy is None and alive == self.me and not courteous:
            self.candidacy = Candidacy((highest[0] + 1, self._rank))
            request = self._request(self.candidacy)
            self._tell_all(request)
            self._take(self.me, request, now)

    def _request(self, candidacy: Candidacy) -> Prepare | Propose:
        if candidacy.proposal is None:
            return Prepare(self.roster.epoch, candidacy.ballot)
        return Propose(self.roster.epoch, candidacy.proposal)

    def _advance(self, now: float) -> bool:
        """Take the ballot under way a step further; returns whether it was one."""
        candidacy = self.candidacy
        if candidacy is None or self.expelled is not None:
            return False
        if any(vote.promised > candidacy.ballot for vote in self.votes.values()):
            self.candidacy = None
            self.candidate_from = max(self.candidate_from, now + _COURTESY_S * (1 + self._rank))
            return False
        if candidacy.proposal is None:
            return self._propose(candidacy, now)
        proposal = candidacy.proposal
        accepted = [name for name, vote in self.votes.items() if vote.accepted == proposal]
        if not is_quorum(self.roster.names, accepted, self.dead):
            return False
        self._learn(proposal.roster)
        return True

    def _propose(self, candidacy: Candidacy, now: float) -> bool:
        alive = {name: vote for name, vote in self.votes.items() if name not in self.dead}
        promised = {name for name, vote in alive.items() if vote.promised == candidacy.ballot}
        if not is_quorum(self.roster.names, promised, self.dead):
            return False
        candidacy.quorum_at = now if candidacy.quorum_at is None else candidacy.quorum_at
        awaited = alive.keys() - promised - set(self.view.suspects)
        if awaited and now < candidacy.quorum_at + _PATIENCE_S:
            return False
        bound = [vote.accepted for vote in self.votes.values() if vote.accepted is not None]
        if bound:
            roster = max(bound, key=lambda proposal: proposal.ballot).roster
        else:
            roster = self._next({name: self.views[name] for name in promised})
        candidacy.proposal = Proposal(candidacy.ballot, roster)
        request = self._request(candidacy)
        self._tell_all(request)
        self._take(self.me, request, now)
        return True

    def _next(self, views: Mapping[str, View]) -> Roster:
        stay = who_stays(self.roster.members, views, self.dead)
        doubts = {name: how for view in views.values() for name, how in view.suspects.items()}
        gone = {name: doubts.get(name, "silent") for name in self.roster.names if name not in {m.name for m in stay}}
        gone |= {name: "left" for name in gone if name in views and views[name].leaving}
        gone |= {name: "killed" for name in gone if name in self.dead}
        return Roster(self.roster.epoch + 1, stay, gone)

    def _learn(self, roster: Roster) -> None:
        """An epoch has been decided: go on to it, and tell those who were in this one or are in that."""
        if roster.epoch <= self.roster.epoch:
            return
        told = {name for name in (*self.roster.names, *roster.names) if name != self.me and name not in self.dead}
        self.outbox += [(name, Decided(roster)) for name in sorted(told)]
        if self.me in roster.names:
            self.enter(roster)
        else:
            self.expelled = roster

    @property
    def _rank(self) -> int:
        return self.roster.names.index(self.me)

    def _tell(self, name: str, message: Message) -> None:
        if name != self.me:
            self.outbox.append((name, message))

    def _tell_all(self, message: Message, but: str = "") -> None:
        for name in self.roster.names:
            if name != but and name not in self.dead:
                self._tell(name, message)
