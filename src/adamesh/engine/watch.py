"""The guard at work: it hears every vote, and says of a step that is too bad that it must not be made.

What it needs of others travels in the vote itself. Only where a step is bad do workers talk once more, to find out
whose gradient it was. All workers that vote together remember the same steps, so all judge alike; one that remembers
others (it has just joined) is told first.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite, sqrt

import torch
from torch import Tensor

from adamesh.engine.alike import Replicas
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.header import Vote
from adamesh.engine.meter import Meter
from adamesh.engine.opening import Peers
from adamesh.engine.refusal import Refusal
from adamesh.engine.rows import RowStep
from adamesh.engine.window import Window
from adamesh.guard import Guard

__all__ = ["Watch"]

_NOTE = struct.Struct("<?dIQ")
_OWN = struct.Struct("<di")


@dataclass(frozen=True)
class Note:
    """What a worker adds to its vote."""

    told: bool
    loss: float
    """Of its own samples; meaningless unless it was ``told``."""
    mark: int
    """Of the windows."""
    fingerprint: int
    """Of the parameters."""


class Watch:
    """Guards the steps of one optimizer on one rank.

    Args:
        guard: the settings.
        buckets: the dense parameters.
        rows: the row-sparse ones.
        num_owners: workers in an island.
        meter: counts bytes and waiting.
        delayed: gradients are applied steps after they were computed, so that no loss is theirs, nor is ``p.grad``.
    """

    def __init__(
        self,
        guard: Guard,
        buckets: Sequence[LiveBucket],
        rows: RowStep,
        num_owners: int,
        meter: Meter,
        *,
        delayed: bool,
    ) -> None:
        self.loss: float | None = None
        """Of this worker's samples in the step under way, if somebody told."""
        self.norms = Window(guard.window, guard.warmup_steps, guard.threshold, guard.floor)
        self.losses = Window(guard.window, guard.warmup_steps, guard.threshold, guard.loss_floor)
        self._guard = guard
        self._buckets = buckets
        self._rows = rows
        self._replicas = Replicas(buckets, rows.tables, num_owners, meter)
        self._meter = meter
        self._delayed = delayed

    def note(self, step: int) -> bytes:
        """What goes with this worker's vote in step number ``step``."""
        every = self._guard.check_every
        fingerprint = self._replicas.fingerprint(thorough=step % every == 0) if every else 0
        loss, self.loss = self.loss, None
        mark = (31 * self.norms.mark + self.losses.mark) % 2**32
        told = loss is not None and not self._delayed
        return _NOTE.pack(told, loss if loss is not None else 0.0, mark, fingerprint)

    def remember(self, other: "Watch") -> None:
        """Take over what another one of this worker's knew, of an epoch of fewer or more workers."""
        self.norms, self.losses = other.norms, other.losses

    def judge(self, peers: Peers, votes: Sequence[Vote], loss_scale: float | None) -> Refusal | None:
        """Why this step must not be made, or None; then it counts among those that tell what is usual.

        Collective where something is wrong.

        Args:
            peers: who votes.
            votes: theirs, with their notes.
            loss_scale: under a gradient scaler, whose business it is then that something is not finite.
        """
        notes = [Note(*_NOTE.unpack(vote.note)) for vote in votes]
        if len({note.mark for note in notes}) > 1:
            self._learn(peers)
        if len({note.fingerprint for note in notes}) > 1:
            refusal = self._replicas.repair(peers)
            if refusal is not None:
                return refusal
        norm = sqrt(sum(vote.squares for vote in votes))
        if loss_scale is not None and not isfinite(norm):
            return None
        told = {rank: note.loss for rank, note in enumerate(notes) if note.told}
        loss = sum(told.values()) / len(told) if told else None
        return self._beyond(peers, votes, norm, loss_scale or 1.0, loss, told)

    def _beyond(
        self,
        peers: Peers,
        votes: Sequence[Vote],
        norm: float,
        scale: float,
        loss: float | None,
        told: dict[int, float],
    ) -> Refusal | None:
        if not norm <= self.norms.limit or not isfinite(norm):
            return self._whose(peers, votes, norm, scale)
        if loss is not None and (not isfinite(loss) or loss > self.losses.limit):
            limit = self.losses.limit
            suspects = [peers.worker(rank) for rank, own in told.items() if not own <= limit or not isfinite(own)]
            return Refusal("loss", loss, limit, tuple(suspects))
        if norm > 0:  # at a saddle, or where nothing is used, there is no scale to learn
            self.norms.add(norm)
        if loss is not None:
            self.losses.add(loss)
        return None

    def _whose(self, peers: Peers, votes: Sequence[Vote], norm: float, scale: float) -> Refusal:
        """What is said of a norm: every worker says how large its own gradient is, and where the most."""
        sizes = self._own_norms()
        # A NaN is larger than anything.
        worst = max(sizes, key=lambda param: sizes[param] if isfinite(sizes[param]) else inf, default=-1)
        own = sqrt(sum(size * size for size in sizes.values())) / scale
        answers = self._meter.exchange(peers.comm, _OWN.pack(own, worst), "guard")
        told = [_OWN.unpack(answer) for answer in answers]
        limit = self.norms.limit
        bad = [rank for rank, (size, _) in enumerate(told) if not isfinite(size) or size > limit]
        if not bad and not isfinite(norm) and not self._delayed:
            sums = [peers.worker(rank) for rank, vote in enumerate(votes) if not isfinite(vote.squares)]
            return Refusal("sum", norm, limit, tuple(sums))
        where = self._name(told[bad[0]][1]) if bad else None
        suspects = tuple(peers.worker(rank) for rank in bad)
        return Refusal("norm" if isfinite(norm) else "non-finite", norm, limit, suspects, where)

    def _own_norms(self) -> dict[int, float]:
        """Of this worker's gradient, by parameter number."""
        if self._delayed:
            return {}
        found: dict[int, Tensor] = dict(self._rows.gradients())
        for bucket in self._buckets:
            for slot in bucket.slots:
                flat = slot.wide_flat if bucket.wide else slot.grad_flat
                if flat is not None and slot.param.grad is not None:
                    found[slot.place.param] = flat
        norms = [torch.linalg.vector_norm(values, dtype=torch.float64) for values in found.values()]
        sizes: list[float] = torch.stack(norms).tolist() if norms else []
        return dict(zip(found, sizes, strict=True))

    def _name(self, param: int) -> str | None:
        slots = [slot for bucket in self._buckets for slot in bucket.slots] + self._rows.slots
        return next((slot.name for slot in slots if slot.place.param == param), None)

    def _learn(self, peers: Peers) -> None:
        """Somebody remembers other steps: all take over what the one says who remembers the most."""
        mine = json.dumps([list(self.norms.values), list(self.losses.values)])
        everybodys = [json.loads(answer) for answer in self._meter.exchange(peers.comm, mine.encode(), "guard learns")]
        norms, losses = max(everybodys, key=lambda windows: sum(map(len, windows)))
        self.norms.replace(norms)
        self.losses.replace(losses)
