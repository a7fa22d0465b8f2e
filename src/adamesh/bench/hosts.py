"""Several hosts on one machine: network namespaces joined by links of a chosen speed.

Each host has an address of its own, and its traffic goes through ``tc``'s token bucket filter, which lets no more
than the link's rate pass. Two hosts are joined by one pair of virtual interfaces, more by a bridge in a namespace
of its own, whose ports are limited too. Linux, iproute2 and root are needed.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from adamesh.errors import ConfigurationError

__all__ = ["Hosts"]

_INTERFACE = "veth0"
_SUBNET = "10.213.7"
_BURST = "64kb"
_LATENCY = "50ms"


class Hosts:
    """A context in which ``num`` hosts exist; leaving it removes them, whatever happened inside.

    Args:
        num: 2 to 64.
        mbit: what each host may send per second, in Mbit; None: as much as the machine can.

    Raises:
        ConfigurationError: this machine, or this user, cannot make network namespaces.
    """

    def __init__(self, num: int, mbit: float | None) -> None:
        assert 2 <= num <= 64, num
        _refuse_unless_possible()
        self.num = num
        self._mbit = mbit
        self._prefix = f"adamesh-{os.getpid()}"
        self._made: list[str] = []
        self._former: Any = None
        """What SIGTERM did before; None: hosts were not made in the main thread, and it is left alone."""

    @property
    def interface(self) -> str:
        """The name of every host's interface, for ``GLOO_SOCKET_IFNAME``."""
        return _INTERFACE

    def address(self, host: int) -> str:
        """A host's address on the link."""
        return f"{_SUBNET}.{host + 1}"

    def command(self, host: int, argv: Sequence[str]) -> list[str]:
        """``argv``, to be run on a host."""
        return ["ip", "netns", "exec", self._name(host), *argv]

    def cut(self, host: int, *, connected: bool = False) -> None:
        """Take a host's link down, or up again."""
        _ip("-n", self._name(host), "link", "set", _INTERFACE, "up" if connected else "down")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, _end)
        try:
            for host in range(self.num):
                self._add(self._name(host))
            if self.num == 2:
                self._join_two()
            else:
                self._join_by_bridge()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _name(self, host: int) -> str:
        return f"{self._prefix}-{host}"

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _join_two(self) -> None:
        one, other = self._name(0), self._name(1)
        _ip("link", "add", _INTERFACE, "netns", one, "type", "veth", "peer", "name", _INTERFACE, "netns", other)
        for host in range(2):
            self._configure(host)

    def _join_by_bridge(self) -> None:
        switch = f"{self._prefix}-switch"
        self._add(switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for host in range(self.num):
            port = f"port{host}"
            name = self._name(host)
            _ip("link", "add", _INTERFACE, "netns", name, "type", "veth", "peer", "name", port, "netns", switch)
            _ip("-n", switch, "link", "set", port, "master", "bridge", "up")
            self._limit(switch, port)
            self._configure(host)

    def _configure(self, host: int) -> None:
        name = self._name(host)
        _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", _INTERFACE)
        _ip("-n", name, "link", "set", _INTERFACE, "up")
        _ip("-n", name, "link", "set", "lo", "up")  # by which a host reaches itself
        self._limit(name, _INTERFACE)

    def _limit(self, namespace: str, interface: str) -> None:
        if self._mbit is not None:
            rate = f"{round(self._mbit * 1000)}kbit"
            bucket = ["tbf", "rate", rate, "burst", _BURST, "latency", _LATENCY]
            _run(["ip", "netns", "exec", namespace, "tc", "qdisc", "add", "dev", interface, "root", *bucket])

    def _remove(self) -> None:
        while self._made:
            # Interfaces go with the namespace that holds one of their ends.
            _ip("netns", "del", self._made.pop())
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """A request to end unwinds the stack, so that the hosts are removed on the way out."""
    raise SystemExit(128 + number)


def _refuse_unless_possible() -> None:
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)} not found: limited links are made with iproute2; install it "
            "(Debian: apt install iproute2)"
        )
    if os.geteuid() != 0:
        raise ConfigurationError(
            "network namespaces can only be made by root, and this is not; run the command as root (sudo), or in a "
            "container that may (docker run --cap-add NET_ADMIN --cap-add SYS_ADMIN)"
        )


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigurationError(
            f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}; this machine's kernel or "
            "container does not let hosts be made"
        )
