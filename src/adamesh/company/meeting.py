"""How the members of an epoch build their group: in a thread that can be left behind, by way of their sentinels."""

import base64
import threading
from collections.abc import Callable

from adamesh.comm.base import Communicator, Mailbox
from adamesh.comm.gloo import GlooCommunicator
from adamesh.comm.gloo_group import GlooRing, Rendezvous
from adamesh.comm.gloo_mailbox import GlooMailbox
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.severable import Severable
from adamesh.errors import PeerLost
from adamesh.membership.roster import Roster
from adamesh.membership.sentinel import Sentinel

__all__ = ["Meeting"]

_RECHECK_S = 1.0


class Lines(Rendezvous):
    """What members say about one group goes with their sentinels' signs of life."""

    def __init__(self, sentinel: Sentinel, roster: Roster, name: str) -> None:
        self._sentinel = sentinel
        self._roster = roster
        self._name = f"{roster.epoch} {name} "

    def publish(self, key: str, value: bytes) -> None:
        with self._sentinel.changed:
            self._sentinel.lines[self._name + key] = base64.b64encode(value).decode()
        self._sentinel.tell()

    def look_up(self, key: str) -> bytes:
        with self._sentinel.changed:
            while True:
                for name in self._roster.names:
                    line = self._sentinel.line_of(name, self._name + key)
                    if line is not None:
                        return base64.b64decode(line)
                self._check()
                self._sentinel.changed.wait(_RECHECK_S)

    def _check(self) -> None:
        sentinel, epoch = self._sentinel, self._roster.epoch
        current = sentinel.roster
        moved_on = current is None or current.epoch != epoch or sentinel.expelled is not None
        if moved_on or sentinel.broken >= epoch or sentinel.failure is not None:
            raise PeerLost(f"epoch {epoch} ended while its members were still meeting")


class Meeting:
    """One epoch's group in the making.

    Args:
        sentinel: of this worker.
        roster: of the epoch.
        timeout_s: how long one transfer of the group may take.
    """

    def __init__(self, sentinel: Sentinel, roster: Roster, timeout_s: float) -> None:
        self.roster = roster
        self.world: Communicator | None = None
        """What joins the members, once they have met."""
        self.error: Exception | None = None
        self._sentinel = sentinel
        self._timeout_s = timeout_s
        self._rings: list[GlooRing] = []
        self._cut = False
        self._left = False
        if len(roster.members) == 1:
            self.world = LocalCommunicator()
        else:
            threading.Thread(target=self._meet, name=f"adamesh meets for epoch {roster.epoch}", daemon=True).start()

    def sever(self, reason: str) -> None:
        """Cut what has been built, for good. From any thread."""
        world = self.world
        if isinstance(world, Severable):
            world.sever(reason)

    def leave(self, reason: str) -> None:
        """Cut it, and hold on to nothing: the group and its connections go with who still uses what joined it."""
        self.sever(reason)
        self._left = True
        self.world = None
        self._rings = []

    def _meet(self) -> None:
        try:
            ring = self._ring("world")
            inner = GlooCommunicator(ring.group, "world", self._mailboxes())
            world = Severable(inner, self._cut_all, self._waits)
            if not self._left:
                self.world = world
        except Exception as error:
            # Whoever asks for the world is told why there is none.
            self.error = error
        with self._sentinel.changed:
            self._sentinel.changed.notify_all()

    def _ring(self, name: str) -> GlooRing:
        rank = self.roster.names.index(self._sentinel.me.name)
        lines = Lines(self._sentinel, self.roster, name)
        ring = GlooRing(lines, rank, len(self.roster.members), self._sentinel.me.host, self._timeout_s)
        self._rings.append(ring)
        if self._cut:
            ring.cut()
        return ring

    def _mailboxes(self) -> Callable[[], Mailbox]:
        numbers = iter(range(1 << 30))

        def open_mailbox() -> Mailbox:
            return GlooMailbox(self._ring(f"mailbox {next(numbers)}").group)

        return open_mailbox

    def _cut_all(self) -> None:
        self._cut = True
        for ring in list(self._rings):
            ring.cut()

    def _waits(self, waits: bool) -> None:
        self._sentinel.waits = waits
        self._sentinel.moves += 1
