"""For loops of one's own: this process's place among workers that come and go, as the environment says."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence

from torch.distributed import HashStore, TCPStore  # type: ignore[attr-defined]

from adamesh.company.events import Change
from adamesh.company.terms import Terms
from adamesh.company.workers import Workers
from adamesh.errors import ConfigurationError

__all__ = ["elastic", "enter"]


def elastic(tell: Callable[[Change], None] = lambda change: None) -> Workers:
    """Meet the other workers of a run whose workers may be lost, come and go. Collective among the first ones.

    The first workers are started as for ``torch.distributed``: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
    ``MASTER_PORT`` are set, as torchrun, Slurm or Kubernetes do, or not, by a worker that begins alone. A newcomer is
    started with ``ADAMESH_JOIN=HOST:PORT[,HOST:PORT...]``, addresses of members (`Workers.members` has them). All of
    them need ``ADAMESH_TOKEN``, a secret of the run.

    Use it as the mesh of a plan: ``Plan(mesh=adamesh.elastic(), redundancy=2)``.

    Args:
        tell: called with everyone who has come or gone.

    Raises:
        ConfigurationError: the environment is incomplete.
        QuorumLost: nobody let this newcomer in.
    """
    environment = os.environ
    if not environment.get("ADAMESH_TOKEN"):
        raise ConfigurationError(
            "ADAMESH_TOKEN is not set: workers that come and go know each other by a secret of their run. Set it to "
            "the same random string for all of them, as in ADAMESH_TOKEN=$(openssl rand -hex 16)"
        )
    asked = environment.get("ADAMESH_JOIN")
    return enter(environment, _addresses(asked) if asked else None, tell)


def enter(
    environment: Mapping[str, str], members: Sequence[tuple[str, int]] | None, tell: Callable[[Change], None]
) -> Workers:
    """Found a company with others as an environment says, or join one.

    Args:
        environment: `elastic` says which variables.
        members: addresses of those to join; None: found one.
        tell: called with everyone who has come or gone.
    """
    master = environment.get("MASTER_ADDR", "127.0.0.1")
    towards = members[0][0] if members else master
    terms = Terms(environment.get("ADAMESH_HOST") or _own_address(towards), environment["ADAMESH_TOKEN"])
    if members:
        return Workers.join(members, terms, tell)
    size = int(environment.get("WORLD_SIZE", "1"))
    if size == 1:
        return Workers.found(HashStore(), 0, 1, terms, tell)
    if "MASTER_PORT" not in environment:
        raise ConfigurationError(
            f"WORLD_SIZE={size} and MASTER_PORT is not set: workers cannot find each other; set it, RANK and "
            "MASTER_ADDR as torchrun does"
        )
    rank = int(environment["RANK"])
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # torchrun's agent serves a store there already.
        store = TCPStore(master, int(environment["MASTER_PORT"]), size, is_master=False)
        return Workers.found(store, rank, size, terms, tell)
    return Workers.found((master, int(environment["MASTER_PORT"])), rank, size, terms, tell)


def _own_address(towards: str) -> str:
    """The address by which the host at another one sees this one; nothing is sent."""
    family = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((towards, 9))
        address: str = sock.getsockname()[0]
        return address


def _addresses(text: str) -> list[tuple[str, int]]:
    addresses = []
    for part in text.split(","):
        host, colon, port = part.strip().rpartition(":")
        if not colon or not port.isdecimal():
            raise ConfigurationError(f"ADAMESH_JOIN={text}: {part!r} is no address, as in 10.0.0.5:29500")
        addresses.append((host, int(port)))
    return addresses
