"""By which address others reach this machine, and whether Gloo would use it too.

Gloo (torch 2.13) listens on the interface that ``GLOO_SOCKET_IFNAME`` names; else at the address that the machine's
own name resolves to, if that is one of its own; else on the loopback interface, where no other machine can reach it.
Debian's ``/etc/hosts`` lets a machine's own name be 127.0.1.1.
"""

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["Address", "addresses_of", "choose", "machine_id", "own_interfaces", "routed"]

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_BOOT, _NETWORK = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")


@dataclass(frozen=True)
class Address:
    """Where others reach this machine."""

    address: str
    interface: str
    chosen_by: str
    problem: str | None
    """Why Gloo would not use it."""


def choose(wanted: str | None, host: str, named: Sequence[str], route: str, interfaces: Mapping[str, str]) -> Address:
    """The address to be reached at.

    Args:
        wanted: what ``GLOO_SOCKET_IFNAME`` says.
        host: the machine's own name.
        named: the addresses that its name resolves to.
        route: its own address on the way to the other machines.
        interfaces: interface by own address.
    """
    outward = {address: name for address, name in interfaces.items() if not _is_loopback(address)}
    if _is_loopback(route) and outward:
        route = next(iter(outward))
    by_route = (route, interfaces.get(route, "?"))
    if wanted:
        of_wanted = [address for address, name in interfaces.items() if name == wanted.split(",")[0]]
        if of_wanted:
            return Address(of_wanted[0], wanted, "GLOO_SOCKET_IFNAME", None)
        known = ", ".join(sorted(set(interfaces.values())))
        problem = f"GLOO_SOCKET_IFNAME={wanted}, and there is no such interface; it has {known}"
        return Address(*by_route, "the route to the others", problem)
    own = [address for address in named if address in interfaces or _is_loopback(address)]
    if own and not _is_loopback(own[0]):
        return Address(own[0], interfaces[own[0]], "its own name", None)
    if own:
        what = f"its own name {host!r} is {own[0]}, its loopback address (see /etc/hosts)"
    elif named:
        what = f"its own name {host!r} is {named[0]}, which is none of its addresses"
    else:
        what = f"its own name {host!r} does not resolve"
    remedy = f"Gloo would listen where no other machine can reach it. Set GLOO_SOCKET_IFNAME={by_route[1]}"
    return Address(*by_route, "the route to the others", f"{what}: {remedy}")


def own_interfaces() -> dict[str, str]:
    """Interface by address, of this machine; IPv4 first."""
    found = [
        (entry.family, entry.address.partition("%")[0], name)
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family in _FAMILIES
    ]
    return {address: name for _, address, name in sorted(found, key=lambda entry: _FAMILIES.index(entry[0]))}


def addresses_of(name: str) -> list[str]:
    """What a name resolves to here; empty if it does not."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found if entry[0] in _FAMILIES))


def routed(towards: str) -> str:
    """The own address on the way to another; nothing is sent."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((towards, 9))
        except OSError:  # there is no way; that is found when somebody is to be reached
            return "127.0.0.1"
        return str(sock.getsockname()[0])


def machine_id() -> str:
    """The same for two processes that share a machine and its network; containers with networks of their own do not."""
    if _BOOT.exists() and _NETWORK.exists():
        return f"{_BOOT.read_text().strip()} {_NETWORK.readlink()}"
    return socket.gethostname()


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
