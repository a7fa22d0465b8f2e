"""Who is who: members, with where their sentinels listen, and the list of them that makes an epoch."""

from dataclasses import dataclass, field

__all__ = ["Member", "Roster"]


@dataclass(frozen=True)
class Member:
    """One worker."""

    name: str
    """Belongs to one process of one run, and to no other ever after: who comes back has another."""
    host: str
    port: int
    """Where its sentinel listens."""


@dataclass(frozen=True)
class Roster:
    """The members of an epoch, by rank: the oldest first."""

    epoch: int
    members: tuple[Member, ...]
    gone: dict[str, str] = field(default_factory=dict)
    """Of the epoch before: who is no longer there, and why: "killed", "silent", "hung" or "left"."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)
