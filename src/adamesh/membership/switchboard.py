"""All connections of one sentinel: one that it opens to each other member, and those that others open to it."""

import contextlib
import errno
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from adamesh.membership.links import PROTOCOL, Closed, Link
from adamesh.membership.messages import Hello, Message
from adamesh.membership.roster import Member

__all__ = ["Ended", "Refused", "Said", "Switchboard", "resolved"]

_STRANGERS_S = 5.0
"""How long a connection may stay open without a hello."""
_BACKLOG = 128


@dataclass(frozen=True)
class Said:
    """Somebody who has shown the token has sent a message."""

    link: Link
    message: Message


@dataclass(frozen=True)
class Ended:
    """A connection is no more; all that came over it has been given."""

    link: Link


@dataclass(frozen=True)
class Refused:
    """The host of a member answers, and nobody, or somebody else, listens where the member did."""

    target: Member


Event = Said | Ended | Refused


def resolved(host: str, port: int) -> tuple[str, int]:
    """An address as numbers, so that nobody needs to look up a name again.

    Raises:
        OSError: there is no such host.
    """
    sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4]
    return str(sockaddr[0]), int(sockaddr[1])


class Switchboard:
    """Connections, without a thread of its own: `poll` is called by one, `wake` by any.

    Args:
        name: of this member.
        host: where others reach this host; the listener is bound to it alone.
        token: the run's secret.
    """

    def __init__(self, name: str, host: str, token: str) -> None:
        address = resolved(host, 0)
        self._listener = socket.create_server(address, family=_family(address[0]), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._awake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._waking = threading.Lock()
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._hello = Hello(token, PROTOCOL, name)
        self._links: list[Link] = []
        self._happened: list[Event] = []
        self.me = Member(name, address[0], self._listener.getsockname()[1])

    def wake(self) -> None:
        """Let `poll` return."""
        with self._waking, contextlib.suppress(BlockingIOError):  # it has been woken often enough
            if not self._closed:
                os.write(self._waker, b"!")

    def poll(self, timeout_s: float) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until something can be done; give what comes to `serve`."""
        return self._selector.select(timeout_s)

    def serve(self, ready: list[tuple[selectors.SelectorKey, int]], now: float) -> Iterator[Event]:
        """What has happened."""
        for key, _ in ready:
            if key.fileobj is self._listener:
                self._accept(now)
            elif key.fileobj == self._awake:
                os.read(self._awake, 4096)
        for key, _ in ready:
            if isinstance(key.data, Link) and key.data in self._links:
                yield from self._serve(key.data)
        for link in [link for link in self._links if link.name is None and now - link.since > _STRANGERS_S]:
            yield from self._end(link)
        yield from self._reap()

    def call(self, member: Member, now: float) -> None:
        """Open a connection to a member, unless there is one or one is being opened."""
        if any(link.target == member for link in self._links):
            return
        sock = socket.socket(_family(member.host), socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(sock, self._hello, now, member)
        code = sock.connect_ex((member.host, member.port))
        if code in (0, errno.EINPROGRESS):
            self._links.append(link)
            self._selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, link)
            return
        sock.close()
        if code == errno.ECONNREFUSED:
            self._happened.append(Refused(member))

    def send(self, name: str, message: Message, over: Link | None = None) -> None:
        """Send to somebody who is connected, or who is being called; else the message is lost.

        Args:
            name: to whom.
            message: what.
            over: a connection to prefer.
        """
        links = [link for link in self._links if link.name == name or (link.target and link.target.name == name)]
        if links:
            best = max(links, key=lambda link: (link is over, link.target is not None))
            best.send(message)
            self._flush(best)

    def broadcast(self, message: Message) -> None:
        """Send to all that were called from here."""
        for link in list(self._links):
            if link.target is not None:
                link.send(message)
                self._flush(link)

    def called(self, name: str) -> bool:
        """Whether a connection to ``name``, opened from here, is up."""
        return any(link.name == name and link.target is not None for link in self._links)

    def listens_to(self, name: str) -> bool:
        """Whether a connection that ``name`` has opened is still up, so that more of its words may come."""
        return any(link.name == name and link.target is None for link in self._links)

    def hang_up(self, keep: set[str]) -> None:
        """Close the connections that were opened from here to anybody but these."""
        for link in [link for link in self._links if link.target is not None and link.target.name not in keep]:
            self._forget(link)

    def close(self) -> None:
        """End all connections, and stop listening. Again, it does nothing."""
        if self._closed:
            return
        for link in list(self._links):
            self._forget(link)
        self._selector.close()
        self._listener.close()
        with self._waking:
            self._closed = True
            os.close(self._awake)
            os.close(self._waker)

    def _accept(self, now: float) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(sock, self._hello, now)
            self._links.append(link)
            self._selector.register(sock, selectors.EVENT_READ, link)
            self._flush(link)

    def _serve(self, link: Link) -> Iterator[Event]:
        if link.connecting:
            code = link.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                assert link.target is not None
                self._forget(link)
                yield Refused(link.target) if code == errno.ECONNREFUSED else Ended(link)
                return
            link.connecting = False
        try:
            link.flush()
            self._watch(link)
            for message in link.read():
                if not isinstance(message, Hello):
                    yield Said(link, message)
                elif link.target is not None and link.target.name not in ("", message.name):
                    yield Refused(link.target)
                    raise Closed("somebody else listens here")
        except OSError:
            yield from self._end(link)

    def _flush(self, link: Link) -> None:
        try:
            link.flush()
        except OSError:
            # What has arrived is still to be read: `serve` finds the end behind it.
            link.outbox.clear()
        self._watch(link)

    def _watch(self, link: Link) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.connecting or link.outbox else 0)
        if self._selector.get_key(link.sock).events != wanted:
            self._selector.modify(link.sock, wanted, link)

    def _end(self, link: Link) -> Iterator[Event]:
        if link in self._links:
            self._forget(link)
            yield Ended(link)

    def _reap(self) -> Iterator[Event]:
        happened, self._happened = self._happened, []
        yield from happened

    def _forget(self, link: Link) -> None:
        self._links.remove(link)
        self._selector.unregister(link.sock)
        link.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
