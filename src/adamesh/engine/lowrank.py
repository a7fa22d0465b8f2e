"""The low-rank passage: two reductions, P and then Q, of which the second can only leave in ``step()``.

Both are exact, of short flat buffers: the P's of all matrices of a bucket together with what is no matrix, then the
Q's. Until the step is committed neither what is held back (E) nor the Q to begin with changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adamesh.codecs.lowrank import LowRank, drawn, orthonormal
from adamesh.comm.base import chunk
from adamesh.comm.channel import sum_in_rank_order
from adamesh.comm.coder import Run, stream_key
from adamesh.engine.coded import Track
from adamesh.engine.passage import Departure, ExactPassage, Passage

__all__ = ["LowRankPassage", "Place"]


class Place(NamedTuple):
    """A parameter's place in the bucket, and its shape."""

    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """A matrix of the bucket, and where its P and its Q lie in theirs."""

    start: int
    rows: int
    columns: int
    p_start: int
    q_start: int
    rank: int

    def of(self, flat_N: Tensor) -> Tensor:
        """The matrix in a buffer of the bucket's."""
        return flat_N[self.start : self.start + self.rows * self.columns].view(self.rows, self.columns)

    def p(self, flat: Tensor) -> Tensor:
        """Its P."""
        return flat[self.p_start : self.p_start + self.rows * self.rank].view(self.rows, self.rank)

    def q(self, flat: Tensor) -> Tensor:
        """Its Q."""
        return flat[self.q_start : self.q_start + self.columns * self.rank].view(self.columns, self.rank)


class LowRankPassage(Passage):
    """P out and back, Q out and back: four legs.

    Args:
        lowrank: how.
        places: the bucket's parameters.
        track: see there; a whole bucket's.
        everybody_needs_all: each rank needs the whole sum, not its chunk only.
    """

    def __init__(self, lowrank: LowRank, places: Sequence[Place], track: Track, *, everybody_needs_all: bool) -> None:
        self.work = None
        self.squares = 0.0
        self._track = track
        self._everybody_needs_all = everybody_needs_all
        self._matrices: list[Matrix] = []
        self._plain: list[tuple[int, int, int]] = []
        """(start, stop, where in the P buffer) of what goes as it is."""
        num_p = num_q = 0
        for place in places:
            shape = lowrank.matrix(place.shape)
            if shape is None:
                self._plain.append((place.start, place.stop, num_p))
                num_p += place.stop - place.start
            else:
                self._matrices.append(Matrix(place.start, *shape, num_p, num_q, lowrank.rank))
                num_p += shape[0] * lowrank.rank
                num_q += shape[1] * lowrank.rank
        self.residual_N = track.numbers(track.numel)
        self._q = track.numbers(num_q)
        for matrix in self._matrices:
            key = stream_key(track.bucket, matrix.start, "q")
            matrix.q(self._q).copy_(drawn(matrix.columns, matrix.rank, key, self._q))
        self._p_sent, self._q_sent = self._room(num_p), self._room(num_q)
        self._ways = [ExactPassage(track.comm, everybody_needs_all=True) for _ in range(2)]
        self._way = 0
        self._arrived = False
        self._given: tuple[Tensor, Departure] | None = None
        self.total = track.numbers(track.numel // (1 if everybody_needs_all else track.comm.size))

    def codes(self, step: int) -> bool:
        return True

    def launch(self, send_N: Tensor, departure: Departure) -> int:
        self._given = (send_N, departure)
        self._way, self._arrived = 0, False
        for matrix, m_NM in self._corrected():
            torch.matmul(m_NM, matrix.q(self._q), out=matrix.p(self._p_sent))
        for start, stop, at in self._plain:
            self._p_sent[at : at + stop - start].copy_(send_N[start:stop]).mul_(departure.factor)
        return self._leave(self._p_sent, departure)

    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        self.squares = 0.0
        if not self._arrived:
            self._ways[self._way].take_in(scale, unused)
        elif self._way == 0:
            p = self._ways[0].total
            for matrix, m_NM in self._corrected():
                p_NR = matrix.p(p)
                p_NR.copy_(orthonormal(p_NR))
                torch.matmul(m_NM.T, p_NR, out=matrix.q(self._q_sent))
        else:
            self._put_together()

    def go_on(self) -> int | None:
        assert self._given is not None
        if not self._arrived:
            num_bytes = self._ways[self._way].go_on()
            assert num_bytes is not None
            self.work, self._arrived = self._ways[self._way].work, True
            return num_bytes
        if self._way == 1:
            return None
        self._way, self._arrived = 1, False
        return self._leave(self._q_sent, self._given[1])

    def commit(self) -> None:
        assert self._given is not None
        send_N, departure = self._given
        p, q = self._ways[0].total, self._ways[1].total
        for matrix in self._matrices:
            error_NM = matrix.of(self.residual_N)
            if not _overlaps(departure.idle, matrix):
                error_NM.add_(matrix.of(send_N), alpha=departure.factor)
                error_NM.addmm_(matrix.p(p), matrix.q(self._q_sent).T, alpha=-1.0)
            # A matrix that stood still begins again where it began this time.
            begin_MR, found_MR = matrix.q(self._q), matrix.q(q)
            begin_MR.copy_(torch.where(found_MR.any(), found_MR, begin_MR))

    @property
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        return {"across" if self._everybody_needs_all else "up": (self.residual_N, 0)}

    @property
    def buffer_bytes(self) -> int:
        own = [self._q, self._p_sent, self._q_sent, self.total]
        return sum(t.numel() * t.element_size() for t in own) + sum(way.buffer_bytes for way in self._ways)

    def _room(self, numel: int) -> Tensor:
        """A buffer that travels: whole chunks, and never empty."""
        unit = 16 * self._track.comm.size
        like = self.residual_N
        return self._track.comm.allocate(max(-(-numel // unit), 1) * unit, like.dtype, like.device)

    def _leave(self, buffer: Tensor, departure: Departure) -> int:
        num_bytes = self._ways[self._way].launch(buffer, departure)
        self.work = self._ways[self._way].work
        return num_bytes

    def _corrected(self) -> Iterator[tuple[Matrix, Tensor]]:
        """Each matrix with M = g + E, which must be done with before the next one; zeros where there is no gradient."""
        assert self._given is not None
        send_N, departure = self._given
        for matrix in self._matrices:
            scratch = self._track.scratch.take(matrix.rows * matrix.columns, self.residual_N.dtype, send_N.device)
            m_NM = scratch.view(matrix.rows, matrix.columns)
            if _overlaps(departure.idle, matrix):
                m_NM.zero_()
            else:
                torch.add(matrix.of(self.residual_N), matrix.of(send_N), alpha=departure.factor, out=m_NM)
            yield matrix, m_NM

    def _put_together(self) -> None:
        """G = P Q^T of this rank's chunk, or of all of it."""
        comm, length = self._track.comm, self.total.numel()
        first = 0 if self._everybody_needs_all else comm.rank * length
        p, q = self._ways[0].total, self._ways[1].total
        for matrix in self._matrices:
            # Whole rows that reach into the chunk.
            low, high = max(first - matrix.start, 0), min(first + length - matrix.start, matrix.rows * matrix.columns)
            if low >= high:
                continue
            top, bottom = low // matrix.columns, -(-high // matrix.columns)
            rows = (matrix.p(p)[top:bottom] @ matrix.q(q).T).view(-1)
            to = matrix.start + low - first
            self.total[to : to + high - low] = rows[low - top * matrix.columns :][: high - low]
        for start, stop, at in self._plain:
            low, high = max(start, first), min(stop, first + length)
            if low < high:
                self.total[low - first : high - first] = p[at + low - start : at + high - start]
        own = chunk(self.total, comm.rank, comm.size) if self._everybody_needs_all else self.total
        self.squares = sum_in_rank_order([own], own, 1.0)


def _overlaps(idle: Sequence[Run], matrix: Matrix) -> bool:
    return any(start == matrix.start for start, _ in idle)
