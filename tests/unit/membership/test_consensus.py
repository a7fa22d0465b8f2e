"""Consensus, with a network that loses, doubles and reorders, members that die, and candidates that compete."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adamesh.membership.consensus import Consensus, is_quorum, who_stays
from adamesh.membership.messages import Decided, Malformed, Message, View, Voted, decode, encode
from adamesh.membership.roster import Member, Roster

TICK_S = 0.05


def member(name: str) -> Member:
    return Member(name, "127.0.0.1", 1000 + ord(name[0]))


@dataclass
class Network:
    """Members of one epoch and of those that follow, and all that is on its way between them."""

    num_members: int
    seed: int
    loss: float = 0.0
    now: float = 0.0
    bag: list[tuple[str, str, Message]] = field(default_factory=list)
    cut: set[frozenset[str]] = field(default_factory=set)
    crashed: set[str] = field(default_factory=set)
    decisions: dict[int, Roster] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        roster = Roster(0, tuple(member(name) for name in "abcdef"[: self.num_members]))
        self.members = {name: Consensus(name, roster) for name in roster.names}
        self.decisions[0] = roster

    @property
    def alive(self) -> list[Consensus]:
        return [self.members[name] for name in self.members if name not in self.crashed]

    def collect(self) -> None:
        for one in self.alive:
            outbox, one.outbox = one.outbox, []
            self.bag += [(one.me, to, decode(encode(message))) for to, message in outbox]
            for roster in (one.roster, one.expelled):
                if roster is not None:
                    assert self.decisions.setdefault(roster.epoch, roster) == roster, "two decisions for one epoch"

    def deliver(self) -> None:
        """One message, any: lost, or taken, and perhaps left to arrive again."""
        index = self.random.randrange(len(self.bag))
        sender, to, message = self.bag[index]
        if self.random.random() > self.loss / 2:
            self.bag[index] = self.bag[-1]
            self.bag.pop()
        arrives = to not in self.crashed and frozenset((sender, to)) not in self.cut
        if to in self.members and arrives and self.random.random() >= self.loss:
            self.members[to].receive(sender, message, self.now)

    def crash(self, name: str) -> None:
        self.crashed.add(name)

    def notice(self, dead: str, by: str) -> None:
        """A connection ends: all that came over it has been read, the last words too."""
        witness, gone = self.members[by], self.members[dead]
        if frozenset((dead, by)) in self.cut:
            return
        if gone.roster.epoch > witness.roster.epoch:
            witness.receive(dead, Decided(gone.roster), self.now)
        elif gone.roster.epoch == witness.roster.epoch:
            witness.receive(dead, Voted(gone.roster.epoch, gone.votes[dead], View()), self.now)
        witness.lose(dead, self.now)

    def run(self, ticks: int, loss: float = 0.0) -> None:
        """Let time pass, and everybody see who is dead."""
        self.loss = loss
        for _ in range(ticks):
            self.now += TICK_S
            for one in self.alive:
                for dead in self.crashed - one.dead.keys():
                    if dead in one.roster.names:
                        self.notice(dead, one.me)
                one.tick(self.now)
            self.collect()
            while self.bag:
                self.deliver()
                self.collect()


EVENTS = ["deliver"] * 12 + ["tick", "want", "suspect", "trust", "crash", "notice", "cut", "heal"]


def disturb(network: Network, num_events: int) -> None:
    """Anything may happen."""
    draw = network.random
    for _ in range(num_events):
        network.collect()
        one = draw.choice(network.alive)
        other = draw.choice(sorted(network.members))
        match draw.choice(EVENTS):
            case "deliver" if network.bag:
                network.deliver()
            case "tick":
                network.now += draw.choice([0.0, TICK_S, 0.5, 2.0])
                one.tick(network.now)
            case "want":
                one.want(network.now)
            case "suspect":
                one.see({other: "silent"}, False, (), network.now)
                one.want(network.now)
            case "trust":
                one.see({}, draw.random() < 0.1, (), network.now)
            case "crash" if len(network.alive) > 1:
                network.crash(one.me)
            case "notice" if other in network.crashed:
                network.notice(other, one.me)
            case "cut":
                network.cut.add(frozenset((one.me, other)))
            case "heal":
                network.cut.clear()
    network.collect()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.4]))
def test_no_epoch_is_decided_twice_whatever_happens(num_members: int, seed: int, loss: float):
    network = Network(num_members, seed, loss)
    disturb(network, 400)
    network.cut.clear()
    network.run(ticks=20)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32), st.data())
def test_a_connected_majority_comes_to_a_decision(num_members: int, seed: int, data: st.DataObject):
    network = Network(num_members, seed)
    everybody = sorted(network.members)
    silent = data.draw(st.sets(st.sampled_from(everybody), max_size=(num_members - 1) // 2))
    killed = data.draw(st.sets(st.sampled_from(everybody), max_size=num_members - 1)) - silent
    left = [one for one in network.alive if one.me not in silent | killed]
    assume(is_quorum(everybody, [one.me for one in left], killed))
    network.cut = {frozenset((name, other)) for name in silent for other in everybody}
    for one in left:
        if network.random.random() < 0.5:  # competing candidates
            one.see(dict.fromkeys(everybody, "silent"), False, (), 0.0)
        one.want(0.0)
        one.see(dict.fromkeys(silent, "silent"), False, (), 0.0)
    network.run(ticks=5, loss=0.5)
    for name in killed:
        network.crash(name)
    network.run(ticks=5, loss=0.5)
    network.run(ticks=100)
    # All of them may have been expelled, by members that were killed afterwards.
    assert all(one.roster.epoch == max(network.decisions) for one in left if one.expelled is None)
    assert max(network.decisions) > 0
    assert not silent & set(network.decisions[max(network.decisions)].names)


def names(members: tuple[Member, ...]) -> str:
    return "".join(one.name for one in members)


@pytest.mark.parametrize(
    ("votes", "dead", "enough"),
    [
        ("abc", "", True),
        ("ab", "", True),
        ("cd", "", False),
        ("bd", "", False),
        ("cd", "b", True),
        ("bd", "a", True),
        ("d", "abc", True),
        ("", "", False),
        ("", "abcd", False),
        ("b", "acd", True),
        ("b", "cd", False),
        ("a", "cd", True),
    ],
)
def test_a_quorum_is_a_majority_of_those_not_dead_or_half_with_the_oldest(votes: str, dead: str, enough: bool):
    assert is_quorum("abcd", votes, dead) == enough


@settings(deadline=None)
@given(st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")))
def test_any_two_quorums_of_the_same_living_meet(one: set[str], other: set[str], dead: set[str]):
    if is_quorum("abcdef", one, dead) and is_quorum("abcdef", other, dead):
        assert (one & other) - dead


@pytest.mark.parametrize(
    ("suspicions", "stay"),
    [
        ({}, "abcd"),
        ({"b": "c", "c": "b"}, "abd"),
        ({"b": "a"}, "bcd"),
        ({"a": "bcd"}, "bcd"),
        ({"a": "d", "b": "d", "c": "d", "d": "abc"}, "abc"),
        ({"a": "cd", "b": "cd", "c": "ab", "d": "ab"}, "ab"),
        ({"a": "x"}, "abcd"),
    ],
)
def test_of_two_that_do_not_hear_each_other_one_goes(suspicions: dict[str, str], stay: str):
    members = tuple(member(name) for name in "abcd")
    views = {name: View(suspects=dict.fromkeys(suspicions.get(name, ""), "silent")) for name in "abcd"}
    assert names(who_stays(members, views, ())) == stay


def test_who_leaves_goes_and_who_comes_stands_behind():
    members = tuple(member(name) for name in "abc")
    views = {
        "a": View(newcomers=(member("y"), member("b"))),
        "b": View(leaving=True),
        "c": View(newcomers=(member("x"),)),
    }
    assert names(who_stays(members, views, ())) == "acxy"
    assert names(who_stays(members, views, "c")) == "axy"
    assert who_stays(members, views, "ac") == ()


def test_who_has_been_left_out_is_told_by_whomever_it_asks():
    network = Network(3, seed=0)
    network.cut = {frozenset("ac"), frozenset("bc")}
    for name in "ab":
        network.members[name].see({"c": "silent"}, False, (), 0.0)
        network.members[name].want(0.0)
    network.run(ticks=5)
    network.members["a"].want(network.now)
    network.run(ticks=5)
    assert [network.members[name].roster.epoch for name in "abc"] == [2, 2, 0]
    network.cut.clear()
    network.members["c"].want(network.now)
    network.run(ticks=5)
    expelled = network.members["c"].expelled
    assert expelled is not None
    assert (expelled.epoch, expelled.names) == (2, ("a", "b"))


@given(st.binary(max_size=50) | st.sampled_from([b'["Want",{"epoch":"1"}]', b'["Want",{}]', b'["View",{}]', b"[1,2]"]))
def test_what_is_no_message_is_refused(content: bytes):
    with pytest.raises(Malformed):
        decode(content)
