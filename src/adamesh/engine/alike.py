"""Are replicas alike: fingerprints of the parameters, compared in the vote, and repair where they are not.

A memory that flips a bit says nothing. Between two commits every replica holds the same bits, so the one whose
fingerprint is another than that of most is the one that changed. Where there is no majority (two workers, for one)
nobody can tell who is right, and each slice is taken from its owner, whose value the next update starts from.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor
from torch.autograd.graph import increment_version

from adamesh.engine.bucket import LiveBucket, LiveSlot, flat_real
from adamesh.engine.fingerprint import checksum, combined, strong
from adamesh.engine.meter import Meter
from adamesh.engine.opening import Peers
from adamesh.engine.refusal import Refusal
from adamesh.engine.table import LiveTable

__all__ = ["Replicas"]


@dataclass(frozen=True)
class Unit:
    """What is compared and repaired as one."""

    slots: Sequence[LiveSlot]
    memory: Tensor
    """Flat; a copy, if the parameter lives beside its bucket and not in order."""
    bounds: Sequence[int] | None
    """Where the parts of its owners in an island start, and where the last one's stops; None for a parameter that lives
    beside its bucket."""


class Replicas:
    """The parameters of one optimizer on one rank.

    Args:
        buckets: the dense ones.
        tables: the row-sparse ones.
        num_owners: workers in an island.
        meter: counts bytes and waiting.
    """

    def __init__(
        self, buckets: Sequence[LiveBucket], tables: Sequence[LiveTable], num_owners: int, meter: Meter
    ) -> None:
        self._buckets = buckets
        self._tables = tables
        self._num_owners = num_owners
        self._meter = meter

    def fingerprint(self, *, thorough: bool) -> int:
        """64 bits of all parameters: a checksum, or a hash that also sees words that changed places."""
        return combined((unit.memory for unit in self._units()), strong if thorough else checksum)

    def repair(self, peers: Peers) -> Refusal | None:
        """Find which parameters differ, and make them alike again. Collective, and rare.

        Returns:
            Who was repaired and where; None where everything is alike after all.
        """
        units = self._units()
        compared = self._compared(peers, [[unit.memory] for unit in units])
        differing = [(unit, numbers) for unit, numbers in zip(units, compared, strict=True) if len(set(numbers)) > 1]
        if not differing:
            return None
        first = differing[0][0].slots
        by_slot = self._compared(peers, [[slot.value, flat_real(slot.param.detach())] for slot in first])
        names = [slot.name for slot, numbers in zip(first, by_slot, strict=True) if len(set(numbers)) > 1]
        suspects: set[int] = set()
        for unit, numbers in differing:
            number, count = Counter(numbers).most_common(1)[0]
            source = numbers.index(number) if 2 * count > len(numbers) else None
            if source is not None:
                suspects |= {peers.worker(rank) for rank, other in enumerate(numbers) if other != number}
            self._bring_back(unit, source, peers)
        wrong = tuple(sorted(suspects))
        return Refusal("replicas", float(len(wrong)), 0.0, wrong, names[0] if names else first[0].name)

    def _bring_back(self, unit: Unit, source: int | None, peers: Peers) -> None:
        if unit.bounds is not None and source is not None:
            self._meter.wait(peers.comm.broadcast(unit.memory, src=source))
        elif unit.bounds is not None:
            for rank, (start, stop) in enumerate(pairwise(unit.bounds)):  # of all workers, those of the first island
                self._meter.wait(peers.comm.broadcast(unit.memory[start:stop], src=rank))
        for slot in unit.slots:
            if slot.aliased:
                increment_version(slot.param)
            slot.publish()

    def _compared(self, peers: Peers, groups: Sequence[Sequence[Tensor]]) -> list[tuple[int, ...]]:
        """For each group of buffers, every rank's fingerprint of it."""
        mine = [combined(group, strong) for group in groups]
        form = f"<{len(mine)}Q"
        answers = self._meter.exchange(peers.comm, struct.pack(form, *mine), "replicas")
        return list(zip(*(struct.unpack(form, answer) for answer in answers), strict=True))

    def _units(self) -> list[Unit]:
        units = [Unit(b.slots, b.param_N, self._even(b.param_N.numel())) for b in self._buckets]
        units += [Unit([t.slot], t.slot.value, (t.bounds * t.place.width).tolist()) for t in self._tables]
        # Last, because they are brought back from their buckets.
        beside = [slot for unit in units for slot in unit.slots if not slot.aliased]
        return units + [Unit([slot], flat_real(slot.param.detach()), None) for slot in beside]

    def _even(self, numel: int) -> list[int]:
        return [numel // self._num_owners * rank for rank in range(self._num_owners + 1)]
