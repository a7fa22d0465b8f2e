"""By which address a machine is reached, and when Gloo would use another one."""

import pytest

from adamesh.nodes.address import addresses_of, choose, machine_id, own_interfaces

OWN = {"127.0.0.1": "lo", "10.0.0.5": "eth0", "192.168.1.5": "eth1"}


@pytest.mark.parametrize(
    ("wanted", "named", "route", "address", "words"),
    [
        (None, ["10.0.0.5"], "192.168.1.5", "10.0.0.5", None),  # as Gloo does: its own name comes first
        ("eth1", ["127.0.1.1"], "10.0.0.5", "192.168.1.5", None),
        (None, ["127.0.1.1"], "10.0.0.5", "10.0.0.5", r"127\.0\.1\.1.*/etc/hosts.*GLOO_SOCKET_IFNAME=eth0"),
        (None, [], "192.168.1.5", "192.168.1.5", "does not resolve.*GLOO_SOCKET_IFNAME=eth1"),
        (None, ["8.8.8.8"], "10.0.0.5", "10.0.0.5", "none of its addresses.*GLOO_SOCKET_IFNAME=eth0"),
        ("ib0", ["10.0.0.5"], "10.0.0.5", "10.0.0.5", "no such interface; it has eth0, eth1, lo"),
        (None, ["127.0.1.1"], "127.0.0.1", "10.0.0.5", "GLOO_SOCKET_IFNAME=eth0"),  # the rendezvous is here
    ],
)
def test_the_address_is_gloo_s_or_says_why_not(wanted, named, route, address, words):
    chosen = choose(wanted, "host", named, route, OWN)
    assert (chosen.address, chosen.interface) == (address, OWN[address])
    if words is None:
        assert chosen.problem is None
    else:
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(chosen.problem)


def test_a_machine_with_nothing_but_loopback_is_reached_there():
    assert choose(None, "host", ["127.0.0.1"], "127.0.0.1", {"127.0.0.1": "lo"}).address == "127.0.0.1"


def test_what_this_machine_says_of_itself():
    assert own_interfaces()["127.0.0.1"].startswith("lo")
    assert addresses_of("no-such-host.invalid") == []
    assert addresses_of("127.0.0.1") == ["127.0.0.1"]
    assert machine_id() == machine_id()
