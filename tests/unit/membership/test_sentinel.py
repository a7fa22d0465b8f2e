"""A sentinel among strangers: who has no token, or talks nonsense, is not heard."""

import json
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from adamesh.membership.links import PROTOCOL
from adamesh.membership.messages import Decided, Hello, Knock, Message, Want, decode, encode
from adamesh.membership.roster import Member, Roster
from adamesh.membership.sentinel import Sentinel
from adamesh.membership.settings import Patience

TOKEN = "a secret"
HELLO = Hello(TOKEN, PROTOCOL, "caller")


@pytest.fixture
def sentinel() -> Iterator[Sentinel]:
    sentinel = Sentinel("alone", "127.0.0.1", TOKEN, Patience(silence_s=0.2), lambda epoch: None)
    sentinel.start(Roster(0, (sentinel.me,)))
    yield sentinel
    assert sentinel.failure is None
    sentinel.close()


def frame(message: Message) -> bytes:
    return framed(encode(message))


def framed(content: bytes) -> bytes:
    return struct.pack("!I", len(content)) + content


def heard(sentinel: Sentinel, content: bytes) -> list[Message]:
    """What a sentinel answers, after its own hello, until it ends the connection or says no more."""
    with socket.create_connection((sentinel.me.host, sentinel.me.port)) as sock:
        sock.sendall(content)
        sock.settimeout(0.5)
        received = b""
        try:
            while part := sock.recv(65536):
                received += part
        except TimeoutError:
            pass
        except ConnectionResetError:
            return []
    messages = []
    while received:
        (length,) = struct.unpack_from("!I", received)
        messages.append(decode(received[4 : 4 + length]))
        received = received[4 + length :]
    return messages[1:]


def test_who_shows_the_token_is_told_who_is_there(sentinel: Sentinel):
    assert heard(sentinel, frame(HELLO) + frame(Want(-1))) == [Decided(Roster(0, (sentinel.me,)))]


@pytest.mark.parametrize(
    "opening",
    [
        frame(Hello("another", PROTOCOL, "caller")),
        frame(Hello(TOKEN, PROTOCOL + 1, "caller")),
        frame(Hello("\ud800", PROTOCOL, "caller")),
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!I", 1 << 30),
        framed(b"[" * 4000),
        framed(json.dumps(["Hello", {"token": 1}]).encode()),
    ],
    ids=["token", "protocol", "surrogate", "none", "http", "long", "deep", "fields"],
)
def test_who_does_not_is_told_nothing(sentinel: Sentinel, opening: bytes):
    assert heard(sentinel, opening + frame(Want(-1))) == []
    assert sentinel.failure is None


def test_a_newcomer_makes_the_company_restless_until_it_goes(sentinel: Sentinel):
    knock = Knock(Member("caller", "127.0.0.1", 1))
    with socket.create_connection((sentinel.me.host, sentinel.me.port)) as sock:
        sock.sendall(frame(HELLO) + frame(knock))
        await_restless(sentinel, True)
    await_restless(sentinel, False)


def await_restless(sentinel: Sentinel, restless: bool) -> None:
    deadline = time.monotonic() + 5.0
    while sentinel.restless is not restless:
        assert time.monotonic() < deadline
        time.sleep(0.01)
