"""Momentum between islands, as 1-bit Adam's replicas send it (Tang et al. 2021, algorithm 1).

The paper's                              divided by 1-b1, with k = b1 / (1-b1)

    m_i = b1 m + (1-b1) g_i              x_i = g_i + k m
    m <- mean of m_i, coded both ways    y = mean of x_i, coded both ways
                                         g = y - k m          which is handed on

So the rule's ``m <- b1 m + (1-b1) g`` is the mean of the momenta, clipping and voting see a gradient, and what codecs
hold back is in a gradient's units, as everywhere else. Every island has the same m, to the bit, and so the same g.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adamesh.comm.base import chunk
from adamesh.comm.channel import sum_in_rank_order
from adamesh.comm.coder import Run, clipped
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.coded import RoundTrip, Track
from adamesh.engine.passage import Departure, Passage

__all__ = ["MomentumTrip"]


class MomentumTrip(Passage):
    """A round trip of momentum in the gradient's place.

    Args:
        trip: what leads it there and back.
        bucket: whose momentum it is.
        track: the trip's.
    """

    def __init__(self, trip: RoundTrip, bucket: LiveBucket, track: Track) -> None:
        self.work = None
        self.squares = 0.0
        self._trip = trip
        self._bucket = bucket
        self._track = track
        self._x_N = track.numbers(track.numel)
        self._unused: Sequence[Run] = ()
        self._returning = False
        self.total = trip.total

    def codes(self, step: int) -> bool:
        return True

    def launch(self, send_N: Tensor, departure: Departure) -> int:
        moment_N, share = self._moment()
        torch.mul(moment_N, share, out=self._x_N).add_(send_N, alpha=departure.factor)
        self._returning = False
        # Who has no gradient of a parameter has a momentum all the same, which is a part of the mean.
        num_bytes = self._trip.launch(self._x_N, Departure(departure.step, 1.0, idle=()))
        self.work = self._trip.work
        return num_bytes

    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        self._trip.take_in(scale, unused)
        if not self._returning:
            return
        self._unused = list(clipped(unused, self._track.offset, self._track.offset + self._track.numel))
        moment_N, share = self._moment()
        self.total.sub_(moment_N, alpha=share)
        for start, stop in self._unused:
            self.total[start:stop].zero_()
        own_S = chunk(self.total, self._track.comm.rank, self._track.comm.size)
        self.squares = sum_in_rank_order([own_S], own_S, 1.0)

    def go_on(self) -> int | None:
        self._returning = True
        num_bytes = self._trip.go_on()
        self.work = self._trip.work
        return num_bytes

    def commit(self) -> None:
        # What was sent of a parameter that nobody used is not applied: what is held back of it stays.
        kept = [(run, run.clone()) for run in self._held_of_unused()]
        self._trip.commit()
        for run, before in kept:
            run.copy_(before)

    @property
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        return self._trip.residuals

    @property
    def buffer_bytes(self) -> int:
        return self._trip.buffer_bytes + self._x_N.numel() * self._x_N.element_size()

    def _held_of_unused(self) -> list[Tensor]:
        if "across" not in self._trip.residuals:
            return []
        held_N, _ = self._trip.residuals["across"]
        return [held_N[start:stop] for start, stop in self._unused]

    def _moment(self) -> tuple[Tensor, float]:
        """The first moment before this step, and what it counts beside a gradient."""
        assert self._bucket.momentum is not None, "an awake bucket has state"
        moment_N, beta1 = self._bucket.momentum()
        return moment_N, beta1 / (1.0 - beta1)
