"""One TCP connection between sentinels: frames, each the length of a message and the message.

The first frame of each side is a `Hello` with the run's token. Whatever is not what it should be ends the connection.
"""

import contextlib
import hmac
import socket
import struct
from collections.abc import Iterator

from adamesh.membership.messages import Hello, Malformed, Message, decode, encode
from adamesh.membership.roster import Member

__all__ = ["PROTOCOL", "Closed", "Link"]

PROTOCOL = 2
_LENGTH = struct.Struct("!I")
_MOST_BYTES = 1 << 20
_MOST_BYTES_OF_STRANGERS = 1 << 12
_READ_BYTES = 1 << 16


class Closed(ConnectionError):
    """The other side has ended the connection, or what it sent ended it."""


class Link:
    """One end of a connection, non-blocking.

    Args:
        sock: connected, connecting, or accepted.
        hello: how this side introduces itself.
        target: whom this side has called, if it has; without a name if it is not known yet.
    """

    def __init__(self, sock: socket.socket, hello: Hello, now: float, target: Member | None = None) -> None:
        self.sock = sock
        self.target = target
        self.name: str | None = None
        """Who is at the other end, once it has shown the token."""
        self.connecting = target is not None
        self.since = now
        self.outbox = bytearray()
        self._inbox = bytearray()
        self._hello = hello
        self.send(hello)

    def send(self, message: Message) -> None:
        """Put a message behind those that wait to leave."""
        content = encode(message)
        self.outbox += _LENGTH.pack(len(content)) + content

    def flush(self) -> None:
        """Let leave what the kernel takes.

        Raises:
            OSError: the connection is broken.
        """
        if self.connecting:
            return
        with contextlib.suppress(BlockingIOError):
            while self.outbox:
                num_sent = self.sock.send(self.outbox)
                del self.outbox[:num_sent]

    def read(self) -> Iterator[Message]:
        """All messages that have arrived, in order; those before an end too.

        Raises:
            OSError: the connection is broken; `Closed`, that it has ended.
        """
        while True:
            try:
                content = self.sock.recv(_READ_BYTES)
            except BlockingIOError:
                return
            if not content:
                raise Closed("the other side has closed the connection")
            self._inbox += content
            yield from self._frames()

    def close(self) -> None:
        self.sock.close()

    def _frames(self) -> Iterator[Message]:
        while len(self._inbox) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._inbox)
            if length > (_MOST_BYTES_OF_STRANGERS if self.name is None else _MOST_BYTES):
                raise Closed(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._inbox) < end:
                return
            try:
                message = decode(bytes(self._inbox[_LENGTH.size : end]))
            except Malformed as error:
                raise Closed(str(error)) from error
            del self._inbox[:end]
            if self.name is None:
                self.name = self._recognise(message)
            yield message

    def _recognise(self, message: Message) -> str:
        if not isinstance(message, Hello) or message.version != PROTOCOL:
            raise Closed("no hello of this protocol")
        if not hmac.compare_digest(
            *(token.encode("utf-8", "surrogatepass") for token in (message.token, self._hello.token))
        ):
            raise Closed("another token")
        return message.name
