"""Measures one direction between two nodes, over one TCP connection as a run's own collectives use them.

The clocks' difference is NTP's (Mills, RFC 5905, section 8): of a question that left at t0 and came at t1, and its
answer that left at t2 and came at t3, offset ((t1 - t0) + (t2 - t3)) / 2, of the question with the least delay.
"""

import errno
import os
import socket
import time
from statistics import median

from adamesh.nodes.record import Card, Leg
from adamesh.nodes.service import ANSWER, MOST_BYTES, PING, TAKE, receive

__all__ = ["LEG_S", "measure"]

LEG_S = 10.0
"""One direction takes no longer."""
_CONNECT_S = 4.0
_PINGS = 30
_FIRST_BYTES = 64 << 10
# So long that the buffers and token buckets on the way, which take some bytes at once, do not count.
_TRANSFER_S = 0.1
_TRANSFERS = 3
_TRANSFERS_S = 3.0


def measure(sender: Card, receiver: Card, secret: bytes) -> Leg:
    """From this node to another one; what fails is told in the result."""
    deadline = time.monotonic() + LEG_S
    try:
        with socket.create_connection((receiver.address, receiver.port), _CONNECT_S, (sender.address, 0)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(secret)
            delays, offset = _pings(connection, deadline)
            speeds = _transfers(connection, min(delays), deadline)
    except OSError as error:
        return Leg(sender.rank, receiver.rank, failure=_why(error))
    figures = (median(delays), min(delays), offset, median(speeds), min(speeds), max(speeds))
    return Leg(sender.rank, receiver.rank, None, *figures)


def _pings(connection: socket.socket, deadline: float) -> tuple[list[float], float]:
    """Seconds there and back, of each; and how far the other clock is ahead, in seconds."""
    delays, best, offset = [], float("inf"), 0.0
    for _ in range(_PINGS):
        connection.settimeout(_left(deadline))
        t0, began = time.time(), time.perf_counter()
        connection.sendall(PING)
        t1, t2 = ANSWER.unpack(receive(connection, ANSWER.size))
        delay = time.perf_counter() - began
        if delay < best:
            best, offset = delay, ((t1 - t0) + (t2 - (t0 + delay))) / 2
        delays.append(delay)
    return delays, offset


def _transfers(connection: socket.socket, delay_s: float, deadline: float) -> list[float]:
    """Mbit/s of each of some transfers, large enough to take their time."""
    data = memoryview(os.urandom(1 << 20) * (MOST_BYTES >> 20))  # random, as links may compress
    size = _FIRST_BYTES
    while (seconds := _transfer(connection, data[:size], deadline)) < _TRANSFER_S and size < MOST_BYTES:
        size *= 2
    speeds: list[float] = []
    spent = 0.0
    while not speeds or (len(speeds) < _TRANSFERS and spent + seconds < _TRANSFERS_S):
        seconds = _transfer(connection, data[:size], deadline)
        spent += seconds
        speeds.append(8e-6 * size / max(seconds - delay_s, 1e-6))
    return speeds


def _transfer(connection: socket.socket, data: memoryview, deadline: float) -> float:
    """Seconds until all of it was there."""
    connection.settimeout(_left(deadline))
    began = time.perf_counter()
    connection.sendall(TAKE + len(data).to_bytes(8, "little"))
    connection.sendall(data)
    receive(connection, 1)
    return time.perf_counter() - began


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"not done within {LEG_S:.0f} s")
    return left


def _why(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return str(error) if "within" in str(error) else "no answer: something on the way drops the packets"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: something on the way rejects it"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL):
        return f"there is no route ({os.strerror(error.errno)})"
    return os.strerror(error.errno) if error.errno else str(error)
