"""What is said of what was found."""

from dataclasses import replace

import pytest

from adamesh.nodes.record import Card, Leg
from adamesh.nodes.turns import turns
from adamesh.nodes.verdict import findings

CARDS = [
    Card(
        rank, f"h{rank}", f"m{rank}", f"10.0.0.{rank + 1}", 4000, "eth0", "its own name", None, "2.13.0", "0.1", "3.11"
    )
    for rank in range(4)
]


def legs(**special: Leg) -> list[Leg]:
    """All directions, healthy but for those given as a1b=..."""
    found = []
    for [(sender, receiver)] in turns(range(4)):
        healthy = Leg(sender, receiver, None, 2e-4, 1e-4, 0.01 * (receiver - sender), 900.0, 890.0, 910.0)
        found.append(special.get(f"from{sender}to{receiver}", healthy))
    return found


def lost(sender: int, receiver: int) -> dict[str, Leg]:
    return {f"from{sender}to{receiver}": Leg(sender, receiver, failure="connection refused")}


def slow(sender: int, receiver: int) -> dict[str, Leg]:
    return {f"from{sender}to{receiver}": Leg(sender, receiver, None, 2e-4, 1e-4, 0.0, 9.5, 9.0, 9.6)}


def said(cards=CARDS, missing=(), legs=None):
    return [(finding.level, finding.text) for finding in findings(cards, missing, legs or globals()["legs"](), 60.0)]


def test_of_healthy_nodes_nothing_is_said():
    assert said() == []


def test_who_does_not_come_is_named():
    [(level, text)] = said(missing=[4])
    assert level == "failure"
    assert text.startswith("node 4 did not show up within 60 s")


@pytest.mark.parametrize(
    ("some", "words"),
    [
        (lost(1, 2), "node 1 (h1, 10.0.0.2) cannot reach node 2 (h2, 10.0.0.3), the other way round works"),
        (lost(1, 2) | lost(2, 1), "cannot reach node 2 (h2, 10.0.0.3), nor the other way round: connection refused"),
    ],
)
def test_a_pair_that_cannot_talk_is_named_once(some, words):
    [(level, text)] = said(legs=legs(**some))
    assert level == "failure"
    assert words in text


def test_a_node_that_nobody_reaches_is_named_once():
    some = {key: leg for rank in (0, 1, 3) for key, leg in (lost(2, rank) | lost(rank, 2)).items()}
    [(level, text)] = said(legs=legs(**some))
    assert level == "failure"
    assert text.startswith("node 2 (h2, 10.0.0.3) and the others cannot reach each other")


def test_a_slow_pair_is_named_with_its_figures():
    [(level, text)] = said(legs=legs(**slow(1, 3)))
    assert level == "warning"
    assert text.startswith(
        "the link between node 1 (h1, 10.0.0.2) and node 3 (h3, 10.0.0.4) is slow: 9.5 Mbit/s from 1 to 3"
    )


def test_a_link_that_was_fast_once_was_disturbed_and_is_not_called_slow():
    assert said(legs=legs(from1to3=Leg(1, 3, None, 2e-4, 1e-4, 0.0, 9.5, 9.0, 850.0))) == []


def test_processes_of_one_machine_have_no_links_to_be_slow():
    assert said([replace(card, machine="m") for card in CARDS], legs=legs(**slow(1, 3))) == []


def test_a_node_whose_links_are_all_slow_is_named_once():
    [(_, text)] = said(legs=legs(**slow(3, 0), **slow(3, 1), **slow(3, 2)))
    assert text.startswith("all links of node 3 (h3, 10.0.0.4) are slow: ")


def test_names_that_resolve_to_loopback_fail_several_machines_and_not_one():
    cards = [CARDS[0], replace(CARDS[1], problem="127.0.1.1"), *CARDS[2:]]
    assert [level for level, _ in said(cards)] == ["failure"]
    assert said([replace(card, machine="m") for card in cards]) == []


@pytest.mark.parametrize(
    ("version", "level"),
    [({"torch": "2.12.0"}, "failure"), ({"adamesh": "0.2"}, "failure"), ({"python": "3.12"}, "warning")],
)
def test_versions_that_differ_are_named(version, level):
    assert [found for found, _ in said([*CARDS[:3], replace(CARDS[3], **version)])] == [level]


def test_builds_of_one_version_are_alike():
    assert said([*CARDS[:3], replace(CARDS[3], torch="2.13.0+cpu")]) == []


def test_a_clock_that_is_off_is_named_with_its_side():
    [(level, text)] = said(legs=legs(from0to2=Leg(0, 2, None, 2e-4, 1e-4, -3.0, 900.0, 890.0, 910.0)))
    assert level == "warning"
    assert "the clock of node 2 (h2, 10.0.0.3) is 3.0 s behind node 0's" in text
