"""What sentinels say to each other, and how it becomes JSON and back. What arrives is not trusted to be well formed.

A message is a frozen dataclass of numbers, words, tuples and other dataclasses. Its form is checked field by field on
arrival, so that what the rest of the room gets has the types that are written here.
"""

import dataclasses
import functools
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from adamesh.membership.roster import Member, Roster

__all__ = [
    "Ballot",
    "Beat",
    "Decided",
    "Hello",
    "Knock",
    "Malformed",
    "Message",
    "Prepare",
    "Proposal",
    "Propose",
    "View",
    "Vote",
    "Voted",
    "Want",
    "decode",
    "encode",
]

Ballot = tuple[int, int]
"""(number, rank of its candidate): no two candidates have the same."""


class Malformed(ValueError):
    """Something arrived that is no message."""


@dataclass(frozen=True)
class Hello:
    """The first message of each side of a connection."""

    token: str
    version: int
    name: str


@dataclass(frozen=True)
class Beat:
    """That a member's sentinel runs, and how far its worker is."""

    epoch: int
    step: int
    phase: str
    moves: int
    """Rises with whatever the worker does."""
    waits: bool
    """The worker waits for the others, in a collective."""
    broken: bool
    """Somebody of the epoch is lost: whoever waits for the others in it waits in vain."""
    leaving: bool
    process: str
    """As `adamesh.membership.kin` names it."""
    lines: dict[str, str] = field(default_factory=dict)
    """By group that is being built: this worker's address in it, in base64."""


@dataclass(frozen=True)
class Knock:
    """A newcomer asks to be let in, and goes on asking."""

    member: Member


@dataclass(frozen=True)
class Proposal:
    """A roster, and the ballot in which it was put forward."""

    ballot: Ballot
    roster: Roster


@dataclass(frozen=True)
class Vote:
    """What an acceptor has committed itself to in an epoch. Both only ever rise."""

    promised: Ballot = (0, 0)
    accepted: Proposal | None = None


@dataclass(frozen=True)
class View:
    """What a member knows of the others when it votes."""

    dead: dict[str, Vote] = field(default_factory=dict)
    """Members that are certain to be dead, and what they had committed themselves to by then."""
    suspects: dict[str, str] = field(default_factory=dict)
    """Members that are not heard ("silent") or do not get on ("hung")."""
    leaving: bool = False
    newcomers: tuple[Member, ...] = ()


@dataclass(frozen=True)
class Want:
    """The epoch is over for the sender, for good; or the sender is behind and asks to be told."""

    epoch: int


@dataclass(frozen=True)
class Prepare:
    """Phase 1a of Paxos."""

    epoch: int
    ballot: Ballot


@dataclass(frozen=True)
class Propose:
    """Phase 2a of Paxos."""

    epoch: int
    proposal: Proposal


@dataclass(frozen=True)
class Voted:
    """Phases 1b and 2b of Paxos, and a refusal, in one: all that the sender has committed itself to."""

    epoch: int
    vote: Vote
    view: View


@dataclass(frozen=True)
class Decided:
    """The members of an epoch, for ever."""

    roster: Roster


Message = Hello | Beat | Knock | Want | Prepare | Propose | Voted | Decided
KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encode(message: Message) -> bytes:
    """A message as JSON."""
    return json.dumps([type(message).__name__, dataclasses.asdict(message)], separators=(",", ":")).encode()


def decode(content: bytes) -> Message:
    """The message that JSON holds.

    Raises:
        Malformed: it holds none.
    """
    try:
        kind, fields = json.loads(content)
        message: Message = _read(KINDS[kind], fields)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Malformed(f"{content[:100]!r} is no message: {error!r}") from error
    return message


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, value: Any) -> Any:
    """``value``, which JSON brought, as a ``kind``."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = _hints(kind)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            raise Malformed(f"{kind.__name__} has the fields {', '.join(hints)}")
        return kind(**{name: _read(hint, value[name]) for name, hint in hints.items()})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _read(args[0], value)
    if origin is tuple and isinstance(value, list):
        if args[-1] is Ellipsis:
            return tuple(_read(args[0], item) for item in value)
        return tuple(_read(arg, item) for arg, item in zip(args, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {_read(args[0], key): _read(args[1], item) for key, item in value.items()}
    if type(value) is kind:
        return value
    raise Malformed(f"{value!r} is no {kind}")
