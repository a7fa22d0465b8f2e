"""Nodes meet and measure each other, here as threads of one process; a third one never comes."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from adamesh.errors import CommunicationTimeout
from adamesh.nodes.check import check_nodes
from adamesh.nodes.leg import measure
from adamesh.nodes.meeting import Place
from adamesh.nodes.record import Card, NodesReport
from adamesh.nodes.service import Service

SECRET = b"0123456789abcdef0123456789abcdef"


def card(rank: int, port: int) -> Card:
    return Card(rank, "h", "m", "127.0.0.1", port, "lo", "", None, "", "", "")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_those_who_came_measure_each_other_and_the_one_who_did_not_is_named(tmp_path):
    port = free_port()
    places = [Place("127.0.0.1", port, rank, size=3, wait_s=2.0) for rank in range(2)]
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(check_nodes, places)
    assert first is not None
    assert second is not None
    assert (first.legs, first.findings) == (second.legs, second.findings)
    assert [card.rank for card in first.cards] == [0, 1]
    assert first.missing == (2,)
    assert first.failed
    assert all(leg.mbit is not None and leg.mbit > 1 for leg in first.legs)
    assert all(leg.offset_s is not None and abs(leg.offset_s) < 0.05 for leg in first.legs)  # one clock
    first.save(tmp_path)
    assert NodesReport.load(tmp_path) == first


def test_a_rendezvous_that_does_not_answer_is_given_up_in_time():
    began = time.monotonic()
    with pytest.raises(
        CommunicationTimeout, match=r"node 1 cannot reach the rendezvous 127\.0\.0\.1:\d+ within 1 s: .*refused"
    ):
        check_nodes(Place("127.0.0.1", free_port(), 1, size=2, wait_s=1.0))
    with pytest.raises(CommunicationTimeout, match=r"the name no-such-host\.invalid does not resolve"):
        check_nodes(Place("no-such-host.invalid", 1, 1, size=2, wait_s=1.0))
    assert time.monotonic() - began < 10


def test_a_port_where_nobody_listens_is_told_and_not_raised():
    leg = measure(card(0, 0), card(1, free_port()), SECRET)
    assert leg.mbit is None
    assert leg.failure == "connection refused: something on the way rejects it"


def test_who_does_not_know_the_secret_gets_no_answer():
    with Service("127.0.0.1", SECRET) as service:
        leg = measure(card(0, 0), card(1, service.port), b"x" * len(SECRET))
    assert leg.failure is not None
    assert leg.latency_s is None
