"""Mirrors: copies of ring neighbours' slices, kept alike by the same updates, so that a slice outlives its owner.

An owner sends the *reduced* slice on to its neighbours, once it is summed and decoded: that is 1/W of the gradient for
each copy, whatever the codec, and no state ever travels. All have it before they vote, so a step that anybody commits
can be made by whoever is left.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from adamesh.comm.base import Communicator, Work
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.meter import Meter
from adamesh.engine.owner import Shard
from adamesh.rules.base import Hyper, Rule

__all__ = ["Mirrors"]


class Mirrors:
    """This rank's copies of the slices of the ranks before it in the ring.

    Args:
        island: the ring.
        redundancy: copies of each slice in all, its owner's among them; no more than there are ranks.
        meter: counts bytes and waiting.
    """

    def __init__(self, island: Communicator, redundancy: int, meter: Meter) -> None:
        self.owners = [(island.rank - d) % island.size for d in range(1, min(redundancy, island.size))]
        """Whose slices."""
        self._neighbours = [(island.rank + d) % island.size for d in range(1, min(redundancy, island.size))]
        self._island = island
        self._meter = meter
        self._shards: dict[int, list[Shard]] = {}
        self._landed: dict[int, list[Tensor]] = {}

    @property
    def shards(self) -> list[Shard]:
        """All copies, bucket by bucket."""
        return [shard for _, shards in sorted(self._shards.items()) for shard in shards]

    @property
    def state_bytes(self) -> int:
        """Of all copies, masters included."""
        return sum(shard.state_bytes for shard in self.shards)

    @property
    def buffer_bytes(self) -> int:
        """Of what arrives."""
        return sum(t.numel() * t.element_size() for landed in self._landed.values() for t in landed)

    def adopt(self, bucket: LiveBucket, mirror: Callable[[LiveBucket, int], Shard]) -> None:
        """A bucket woke up; ``mirror`` makes a copy of an owner's slice of it."""
        self._shards[bucket.place.index] = [mirror(bucket, owner) for owner in self.owners]
        self._landed[bucket.place.index] = [
            self._island.allocate(shard.master_S.numel(), shard.master_S.dtype, shard.master_S.device)
            for shard in self._shards[bucket.place.index]
        ]

    def receive(self, buckets: Iterable[LiveBucket]) -> None:
        """Send reduced slices on, and wait for those of the owners. Collective, also where a sum has failed."""
        if not self.owners:
            return
        works: list[Work] = []
        for bucket in buckets:
            landed = self._landed[bucket.place.index]
            reduced_S = bucket.reduced_S if bucket.reduced_S is not None else torch.zeros_like(landed[0])
            nothing = reduced_S[:0]
            recv, send = [nothing] * self._island.size, [nothing] * self._island.size
            for owner, neighbour, landed_S in zip(self.owners, self._neighbours, landed, strict=True):
                recv[owner], send[neighbour] = landed_S, reduced_S
            works.append(self._island.all_to_all_uneven(recv, send))
            self._meter.bytes_up += len(self._neighbours) * reduced_S.numel() * reduced_S.element_size()
        for work in works:
            self._meter.wait(work)

    def update(
        self, bucket: LiveBucket, rule: Rule, hypers: Sequence[Hyper], used: set[int], coefficient: float
    ) -> None:
        """Make the owners' update of a bucket."""
        copies = zip(self._shards[bucket.place.index], self._landed[bucket.place.index], strict=True)
        for shard, landed_S in copies:
            shard.update(rule, hypers[bucket.place.group], used, coefficient, landed_S)

    def scalars(self) -> Mapping[str, list[Mapping[str, Tensor]]]:
        """The copies of the rule's own numbers, by parameter's name."""
        found: dict[str, list[Mapping[str, Tensor]]] = {}
        for shard in self.shards:
            for piece in (*shard.pieces, *shard.witnesses):
                found.setdefault(piece.slot.name, []).append(piece.scalars)
        return found
