"""One node's part of a check: meet the others, measure in turn, judge. Every node comes to the same report."""

import os
import platform
import socket
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from adamesh.nodes.address import addresses_of, choose, machine_id, own_interfaces, routed
from adamesh.nodes.leg import LEG_S, measure
from adamesh.nodes.meeting import Meeting, Place
from adamesh.nodes.record import Card, Leg, NodesReport
from adamesh.nodes.service import Service
from adamesh.nodes.turns import turns
from adamesh.nodes.verdict import findings

__all__ = ["check_nodes", "main"]

_HEAR_S = 2 * LEG_S


def check_nodes(place: Place) -> NodesReport | None:
    """Take part; None for a process that has nothing to add, as another one of its machine takes part.

    Args:
        place: where the nodes meet, and how long they wait for each other.

    Raises:
        CommunicationTimeout: the rendezvous cannot be reached, or this node came too late.
        PeerLost: the first node has ended.
        ConfigurationError: the rendezvous' port is taken.
    """
    began = time.monotonic()
    meeting = Meeting(place)
    secret = meeting.secret()
    resolved = addresses_of(place.host)
    named = addresses_of(socket.gethostname())
    towards = routed(resolved[0]) if resolved else "127.0.0.1"
    interfaces = own_interfaces()
    chosen = choose(os.environ.get("GLOO_SOCKET_IFNAME"), socket.gethostname(), named, towards, interfaces)
    with Service(chosen.address, secret) as service:
        card = Card(
            place.rank,
            socket.gethostname(),
            machine_id(),
            chosen.address,
            service.port,
            chosen.interface,
            chosen.chosen_by,
            chosen.problem,
            torch.__version__,
            _adamesh(),
            platform.python_version(),
        )
        everybody, missing = meeting.gather(card)
        cards = _one_a_machine(everybody)
        if card not in cards:
            meeting.part([])
            return None
        legs = _measured(meeting, card, cards, secret)
        meeting.part([each.rank for each in everybody])
    found = findings(cards, missing, legs, place.wait_s)
    expected = len(cards) + len(missing)
    return NodesReport(expected, tuple(missing), tuple(cards), tuple(legs), tuple(found), time.monotonic() - began)


def main(arguments: Sequence[str]) -> int:
    """The process's entry: a folder for the report, and how long to wait for the others, seconds."""
    folder, wait_s = Path(arguments[0]), float(arguments[1])
    report = check_nodes(Place.of_launch(wait_s))
    if report is not None and report.cards[0].rank == int(os.environ["RANK"]):
        report.save(folder)
    return 0


def _one_a_machine(cards: Sequence[Card]) -> list[Card]:
    """The first process of each machine; all of them if there is one machine, where this is a rehearsal."""
    first = {card.machine: card for card in reversed(cards)}
    return [card for card in cards if card in first.values()] if len(first) > 1 else list(cards)


def _measured(meeting: Meeting, own: Card, cards: Sequence[Card], secret: bytes) -> list[Leg]:
    """All directions; this node measures those that begin here, when it is their turn."""
    by_rank = {card.rank: card for card in cards}
    legs: list[Leg] = []
    silent: set[int] = set()
    if len(cards) < 2:
        return legs
    for turn in turns(list(by_rank)):
        for sender, receiver in turn:
            if sender == own.rank:
                meeting.tell(measure(own, by_rank[receiver], secret))
        for sender, receiver in turn:
            heard = None if sender in silent else meeting.hear(sender, receiver, _HEAR_S)
            if heard is None:
                silent.add(sender)
                heard = Leg(sender, receiver, failure=f"node {sender} went silent in the middle of the check")
            legs.append(heard)
    return legs


def _adamesh() -> str:
    try:
        return version("adamesh")
    except PackageNotFoundError:
        return "not installed"
