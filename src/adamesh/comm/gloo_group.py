"""Gloo groups that stand for themselves: no default group, no collective call of torch's registry, and they can be cut.

torch 2.13's `ProcessGroupGloo.abort` and `shutdown` do nothing, so a thread that waits for a stopped worker waits until
the timeout. What wakes it is an end of the group's connections. They belong to Gloo, which does not show them, but
its members tell each other where they listen: a connection is the group's if one of its ends is such an address.
"""

import os
import socket
import struct
from abc import ABC, abstractmethod
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]

__all__ = ["GlooRing", "Rendezvous"]


class Rendezvous(ABC):
    """How the members of one group that is being built find each other."""

    @abstractmethod
    def publish(self, key: str, value: bytes) -> None:
        """Let the other members know something."""

    @abstractmethod
    def look_up(self, key: str) -> bytes:
        """What a member has published; blocks until it has.

        Raises:
            PeerLost: it never will.
        """


class _Addresses(Store):
    """A rendezvous as torch's Gloo wants it."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        super().__init__()
        self.seen: dict[str, bytes] = {}
        self._rendezvous = rendezvous

    def set(self, key: str, value: bytes) -> None:  # type: ignore[override]  # torch's own stub is wrong
        self.seen[key] = bytes(value)
        self._rendezvous.publish(key, bytes(value))

    def get(self, key: str) -> bytes:
        if key not in self.seen:
            self.seen[key] = self._rendezvous.look_up(key)
        return self.seen[key]

    def wait(self, keys: list[str], timeout: timedelta | None = None) -> None:
        for key in keys:
            self.get(key)


class GlooRing:
    """A Gloo group of its own. Blocks until all members build it, or one cannot any more.

    Args:
        rendezvous: of this group alone.
        rank: of this worker.
        size: of the group.
        host: where the others reach this one.
        timeout_s: how long a transfer may take.

    Raises:
        PeerLost, RuntimeError: somebody did not come.
    """

    def __init__(self, rendezvous: Rendezvous, rank: int, size: int, host: str, timeout_s: float) -> None:
        backend: Any = dist.ProcessGroupGloo  # torch's stubs know neither its options nor its transfers
        options = backend._Options()
        options._timeout = timedelta(seconds=timeout_s)
        options._threads = 1  # of collectives; point-to-point transfers need none
        options._devices = [backend.create_device(hostname=host)]
        self._addresses = _Addresses(rendezvous)
        self.group: dist.ProcessGroup = backend(self._addresses, rank, size, options)

    def cut(self) -> int:
        """End the group's connections: whoever waits for a transfer gets an error at once. From any thread.

        Returns:
            How many there were.
        """
        # The listener is left alone: Gloo ends the process if that fails.
        known = b"".join(self._addresses.seen.values())
        return sum(_end_if_known(int(number), known) for number in os.listdir("/proc/self/fd"))


def _end_if_known(number: int, known: bytes) -> bool:
    try:
        sock = socket.socket(fileno=number)
    except OSError:  # no socket, or closed since
        return False
    try:
        ends = sock.family in (socket.AF_INET, socket.AF_INET6) and (sock.getsockname(), sock.getpeername())
        if not ends or not any(_sockaddr(sock.family, end) in known for end in ends):
            return False
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected, or no longer
        return False
    finally:
        sock.detach()
    return True


def _sockaddr(family: int, end: tuple[str, int] | tuple[str, int, int, int]) -> bytes:
    """An address as the kernel writes it, up to where it differs between systems."""
    head = struct.pack("=H", family) + struct.pack("!H", end[1])
    if len(end) == 2:
        return head + socket.inet_pton(family, end[0])
    return head + struct.pack("!I", end[2]) + socket.inet_pton(family, end[0].partition("%")[0])
