"""How the nodes of a check find each other: over the run's own rendezvous, each step within a time limit."""

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Self

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from adamesh.errors import CommunicationTimeout, ConfigurationError, PeerLost
from adamesh.nodes.record import Card, Leg

__all__ = ["Meeting", "Place"]

_LOOK_EVERY_S = 0.1
_PROBE_S = 3.0
_GRACE_S = 10.0
"""For what the first node does after its own time limit."""
_PART_S = 5.0


@dataclass(frozen=True)
class Place:
    """Where a node meets the others."""

    host: str
    port: int
    rank: int
    size: int
    served: bool = False
    """Whether a launcher serves the store already; else the first node does."""
    wait_s: float = 60.0
    """How long to wait for the others."""
    run: str = "0"
    """Tells one start from another at the same store."""

    @classmethod
    def of_launch(cls, wait_s: float) -> Self:
        """As ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` say.

        Raises:
            ConfigurationError: one of them is missing.
        """
        try:
            return cls(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                int(os.environ["RANK"]),
                int(os.environ["WORLD_SIZE"]),
                os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                wait_s,
                os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"),
            )
        except KeyError as error:
            raise ConfigurationError(
                f"RANK and WORLD_SIZE are set, {error.args[0]} is not: nodes cannot find each other; set it as "
                "torchrun does, or give --nnodes, --node-rank and --rdzv-endpoint"
            ) from None


class Meeting:
    """Nodes that have met: what each has put down, all can read.

    Args:
        place: where.

    Raises:
        CommunicationTimeout: the rendezvous cannot be reached; the message says what was tried and what to do.
        ConfigurationError: its port is taken.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._is_server = place.rank == 0 and not place.served
        if not self._is_server:
            _await_answer(place)
        timeout = timedelta(seconds=place.wait_s)
        try:
            store = TCPStore(place.host, place.port, is_master=self._is_server, timeout=timeout, wait_for_workers=False)
        except (RuntimeError, OSError) as error:
            if "EADDRINUSE" in str(error) or "already in use" in str(error):
                raise ConfigurationError(
                    f"port {place.port} is taken on this machine: end what uses it, the run itself perhaps, or give "
                    "all nodes another one"
                ) from None
            raise CommunicationTimeout(
                f"node {place.rank} cannot open the rendezvous {place.host}:{place.port}: {_first_line(error)}"
            ) from error
        self._store = PrefixStore(f"adamesh nodes {place.run}", store)

    def secret(self) -> bytes:
        """Known to those who meet here only."""
        if self._place.rank == 0:
            self._store.set("secret", secrets.token_hex(16))
        return self._get("secret", self._place.wait_s + _GRACE_S, "the first node")

    def gather(self, card: Card) -> tuple[list[Card], list[int]]:
        """Everybody's cards by rank, and who did not show up in time."""
        place = self._place
        self._store.set(_card(place.rank), json.dumps(asdict(card)))
        if place.rank == 0:
            deadline = time.monotonic() + place.wait_s
            while len(self._present()) < place.size and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY_S)
            self._store.set("roster", json.dumps(self._present()))
        ranks = json.loads(self._get("roster", place.wait_s + _GRACE_S, "the first node"))
        if place.rank not in ranks:
            raise CommunicationTimeout(
                f"node {place.rank} came when the others had stopped to wait, after {place.wait_s:.0f} s: start all "
                "nodes at about the same time, or give them more with --wait-s"
            )
        cards = [Card(**json.loads(self._store.get(_card(rank)))) for rank in ranks]
        return cards, [rank for rank in range(place.size) if rank not in ranks]

    def tell(self, leg: Leg) -> None:
        """Put down what was measured."""
        self._store.set(_leg(leg.sender, leg.receiver), json.dumps(asdict(leg)))

    def hear(self, sender: int, receiver: int, limit_s: float) -> Leg | None:
        """What ``sender`` has measured, or None if it says nothing within a time limit."""
        try:
            return Leg(**json.loads(self._get(_leg(sender, receiver), limit_s, f"node {sender}")))
        except CommunicationTimeout:
            return None

    def part(self, ranks: Sequence[int]) -> None:
        """Leave; the first one stays until the others have, as it serves the store."""
        self._store.set(f"gone/{self._place.rank}", "")
        if self._place.rank == 0:
            deadline = time.monotonic() + _PART_S
            while not all(map(self._has_gone, ranks)) and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY_S)

    def _has_gone(self, rank: int) -> bool:
        return bool(self._store.check([f"gone/{rank}"]))

    def _present(self) -> list[int]:
        return [rank for rank in range(self._place.size) if self._store.check([_card(rank)])]

    def _get(self, key: str, limit_s: float, who: str) -> bytes:
        deadline = time.monotonic() + limit_s
        # Not `store.wait`: what it raises when the server dies and when time is over is the same.
        while not self._call(lambda: self._store.check([key])):
            if time.monotonic() >= deadline:
                raise CommunicationTimeout(f"{who} said nothing for {limit_s:.0f} s; see its own output")
            time.sleep(_LOOK_EVERY_S / 10)
        value: bytes = self._call(lambda: self._store.get(key))
        return value

    def _call(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except RuntimeError as error:
            where = f"{self._place.host}:{self._place.port}"
            raise PeerLost(f"the rendezvous {where} is gone: the first node has ended; see its output") from error


def _await_answer(place: Place) -> None:
    """Until the rendezvous takes connections.

    Raises:
        CommunicationTimeout: it does not.
    """
    deadline = time.monotonic() + place.wait_s
    while True:
        try:
            with socket.create_connection((place.host, place.port), _PROBE_S):
                return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise CommunicationTimeout(
                    f"node {place.rank} cannot reach the rendezvous {place.host}:{place.port} within "
                    f"{place.wait_s:.0f} s: {_advice(place, error)}"
                ) from error
        time.sleep(_LOOK_EVERY_S)


def _advice(place: Place, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name {place.host} does not resolve on this machine; give an address, or add it to /etc/hosts"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: start node 0 there, and see that its name is not the loopback address here"
    if isinstance(error, TimeoutError):
        return f"no answer: let TCP port {place.port} through to it (firewall, security group), or mind the address"
    return f"{error.strerror or error}: there is no way there from this machine; mind the address and the routes"


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


def _card(rank: int) -> str:
    return f"card/{rank}"


def _leg(sender: int, receiver: int) -> str:
    return f"leg/{sender}/{receiver}"
