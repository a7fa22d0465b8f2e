"""What a node answers while others measure: it tells its clock, and counts bytes. Only to those who know the secret."""

import hmac
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

__all__ = ["ANSWER", "MOST_BYTES", "PING", "TAKE", "Service", "receive"]

PING, TAKE = b"p", b"t"
"""Requests: the answer to the first is `ANSWER`; the second is followed by a size (8 bytes) and as many bytes, and
answered by one byte."""
ANSWER = struct.Struct("<dd")
"""The clock when a ping came and when its answer left, seconds since 1970."""
MOST_BYTES = 32 << 20
_IDLE_S = 10.0


class Service:
    """A context in which a port of this node answers, in threads of its own.

    Args:
        address: where to listen; the port is any that is free.
        secret: what a caller has to say first.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._secret = secret
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = memoryview(bytearray(1 << 20))
        # Whatever goes wrong here, the caller sees, and reports.
        with connection, suppress(OSError):
            connection.settimeout(_IDLE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not hmac.compare_digest(receive(connection, len(self._secret)), self._secret):
                return
            while request := connection.recv(1):
                if request == PING:
                    came = time.time()
                    connection.sendall(ANSWER.pack(came, time.time()))
                elif request == TAKE:
                    left = int.from_bytes(receive(connection, 8), "little")
                    if left > MOST_BYTES:
                        return
                    while left:
                        count = connection.recv_into(buffer[:left])
                        if not count:
                            return
                        left -= count
                    connection.sendall(TAKE)
                else:
                    return


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes.

    Raises:
        ConnectionError: the other end has closed the connection.
        OSError: it failed otherwise.
    """
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError("the connection was closed by the other end")
        data += piece
    return data
