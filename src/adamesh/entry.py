"""For loops of one's own: this process's place among workers that come and go, and what to do when some are lost."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from torch.distributed import HashStore, PrefixStore, TCPStore  # type: ignore[attr-defined]

from adamesh.company.events import Change
from adamesh.company.members import Members, forget_members, read_members, write_members
from adamesh.company.terms import Terms
from adamesh.company.workers import Workers
from adamesh.errors import CommunicationError, ConfigurationError, Expelled, QuorumLost, StateLost
from adamesh.optimizer import MeshOptimizer

__all__ = ["elastic", "enter", "surviving"]


def elastic(folder: str | Path | None = None, *, tell: Callable[[Change], None] = lambda change: None) -> Workers:
    """Meet the other workers of a run whose workers may be lost, come and go. Collective among the first ones.

    The first workers are started as for ``torch.distributed``: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and
    ``MASTER_PORT`` are set, as torchrun or Ray do, or not, by a worker that begins alone. All of them need
    ``ADAMESH_TOKEN``, a secret of the run. A newcomer is started with ``ADAMESH_JOIN=HOST:PORT[,HOST:PORT...]``,
    addresses of members (`Workers.members` has them), and the token; or with ``ADAMESH_JOIN=1``, and finds both in
    ``folder``. ``ADAMESH_HOST`` is the address at which others reach this host, where that cannot be guessed.

    Use it as the mesh of a plan: ``Plan(mesh=adamesh.elastic(), redundancy=2)`` (docs/elastic.md). It is a context:
    a process that goes on after training ends its part with it, or with ``close()``.

    Args:
        folder: on a disk that all workers see; the first of them keeps a file ``members.json`` in it, which only its
            owner can read, for those that come later. None: no such file.
        tell: called with everyone who has come or gone, by the thread that regroups.

    Raises:
        ConfigurationError: the environment is incomplete, or the folder names no members.
        QuorumLost: nobody let this newcomer in.
    """
    environment = dict(os.environ)
    asked = environment.get("ADAMESH_JOIN")
    addresses: Sequence[tuple[str, int]] | None = None
    if asked == "1":
        known = _known(folder)
        environment["ADAMESH_TOKEN"] = environment.get("ADAMESH_TOKEN") or known.token
        addresses = known.addresses
    elif asked:
        addresses = _addresses(asked)
    if not environment.get("ADAMESH_TOKEN"):
        raise ConfigurationError(
            "ADAMESH_TOKEN is not set: workers that come and go know each other by a secret of their run. Set it to "
            "the same random string for all of them, as in ADAMESH_TOKEN=$(openssl rand -hex 16)"
        )
    workers: Workers | None = None

    def leave_word() -> None:
        if folder is not None and workers is not None and workers.formation.world.rank == 0:
            place, formation = Path(folder), workers.formation
            place.mkdir(parents=True, exist_ok=True)
            members = [(member.host, member.port) for member in workers.members]
            write_members(place, Members(environment["ADAMESH_TOKEN"], formation.epoch, members))

    def told(change: Change) -> None:
        tell(change)
        leave_word()

    def take_word_back() -> None:
        if folder is not None and workers is not None and workers.formation.world.rank == 0:
            forget_members(Path(folder))

    workers = enter(environment, addresses, told)
    workers.farewell = take_word_back
    leave_word()
    return workers


@contextmanager
def surviving(optimizer: MeshOptimizer, load: Callable[[], object] | None = None) -> Iterator[None]:
    """If workers are lost inside, go on after it with those who are left: what is inside has ended early then.

    ``step()`` goes on by itself; this is for whatever else workers do together. Wrap a whole turn of the training loop
    in it, with what is decided from ``optimizer.steps_made`` and the company's epoch only, so that all workers come
    back to the same place; a turn whose step was not made comes again, with the same samples, from `ElasticSampler`.

    Args:
        optimizer: of workers that come and go.
        load: loads the last checkpoint, where lost workers held what nobody else does; None: `StateLost` is raised.

    Raises:
        Expelled: the others have gone on without this worker, or it has left.
        QuorumLost: too few are left.
        StateLost: what lost workers held is held by nobody else, and there is no ``load``.
    """
    try:
        yield
    except (CommunicationError, StateLost) as error:
        lost: CommunicationError | StateLost = error
        while not isinstance(lost, Expelled | QuorumLost) and (load is not None or not isinstance(lost, StateLost)):
            try:
                if load is not None and isinstance(lost, StateLost):
                    load()
                else:
                    optimizer.regroup(str(lost))
                return
            except (CommunicationError, StateLost) as again:
                lost = again
        raise lost from (None if lost is error else error)


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
    if dist.is_initialized() and dist.get_world_size() == size:
        # Somebody, Ray Train perhaps, has let them meet already, and serves a store at that address.
        met = PrefixStore("adamesh", dist.distributed_c10d._get_default_store())
        return Workers.found(met, rank, size, terms, tell)
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


def _known(folder: str | Path | None) -> Members:
    if folder is None:
        raise ConfigurationError(
            "ADAMESH_JOIN=1 and no folder: where are the members? Give elastic(FOLDER) the folder of the run, or set "
            "ADAMESH_JOIN=HOST:PORT"
        )
    known = read_members(Path(folder))
    if known is None:
        raise ConfigurationError(f"ADAMESH_JOIN=1 and no members.json in {folder}: no worker has been there to join")
    return known


def _addresses(text: str) -> list[tuple[str, int]]:
    addresses = []
    for part in text.split(","):
        host, colon, port = part.strip().rpartition(":")
        if not colon or not port.isdecimal():
            raise ConfigurationError(f"ADAMESH_JOIN={text}: {part!r} is no address, as in 10.0.0.5:29500")
        addresses.append((host, int(port)))
    return addresses
