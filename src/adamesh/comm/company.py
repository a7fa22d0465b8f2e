"""What a company is: workers that come and go, epoch by epoch.

Within an *epoch* the workers are the same, and a communicator joins them. When one is lost, or all have agreed that
somebody comes or goes, each of those that are left calls :meth:`Company.regroup`, and they meet again in the next
epoch. What was under way in the old one never completes; its buffers must not be used again, because a worker that
woke up late may still write to them.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from adamesh.comm.base import Communicator

__all__ = ["Company", "Formation"]


@dataclass(frozen=True)
class Formation:
    """The workers of one epoch."""

    epoch: int
    """Rises by one or more with every change."""
    world: Communicator
    """Joins them. Ranks are given by age: who was there before keeps its place before those who came later."""
    origins: tuple[int | None, ...]
    """By rank: the rank it had in this worker's epoch before, None of one that has come since. In the first epoch, and
    for a worker that has just come: None for all."""
    names: tuple[str, ...]
    """By rank: a name that no other worker has or will have, for messages, events and files."""


class Company(ABC):
    """One worker's end of a company."""

    @property
    @abstractmethod
    def formation(self) -> Formation:
        """The epoch under way."""

    @property
    @abstractmethod
    def restless(self) -> bool:
        """Somebody asks to come or to go, or this worker does. Costs nothing.

        Workers tell each other at the end of a step, and regroup together if any of them says so.
        """

    @property
    @abstractmethod
    def leaving(self) -> bool:
        """This worker has asked to go: the next regrouping is without it, and it hands over what it holds before."""

    @abstractmethod
    def regroup(self, reason: str) -> Formation:
        """Leave the epoch under way, for good, and meet those who are left in the next one.

        Blocks until a majority of the epoch's workers has agreed, those aside that are certain to be dead.

        Args:
            reason: what this worker has seen, for the others' events.

        Raises:
            Expelled: the others have gone on without this worker, or it has asked to go.
            QuorumLost: too few are left to be sure that the others are not going on elsewhere.
        """

    @abstractmethod
    def note(self, step: int, phase: str) -> None:
        """Tell how far this worker is, so that others can tell one that works from one that hangs. Costs nothing."""
