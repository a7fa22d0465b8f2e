"""Coded passages: gradients go UP as the bytes that a codec makes of them.

Every rank's payload is decoded by the owner, its own too, from the bytes that it would have sent: what a rank
contributes does not depend on which rank it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.base import Codec, Stream
from adamesh.comm.base import Communicator, chunk
from adamesh.comm.channel import state_dtype, sum_in_rank_order
from adamesh.comm.coder import Coder, Run, Scratch, clipped, padding_of, stream_key
from adamesh.engine.passage import Departure, Passage

__all__ = ["CodedPassage", "RoundTrip", "Track"]


@dataclass(frozen=True)
class Track:
    """What a coded passage runs on."""

    comm: Communicator
    bucket: int
    """The bucket's index."""
    offset: int
    """Where in the bucket the buffer begins that travels,"""
    numel: int
    """and how long it is."""
    dtype: torch.dtype
    """Of the bucket's parameters."""
    device: torch.device
    runs: Sequence[Run]
    """Where in the bucket its parameters lie."""
    scratch: Scratch

    def padding(self, codec: Codec, index: int | None = None) -> Tensor:
        """Which elements of the buffer, or of its chunk ``index``, a codec must be kept from filling."""
        length = self.numel // self.comm.size
        start = self.offset if index is None else self.offset + index * length
        return padding_of(codec, self.runs, start, start + (self.numel if index is None else length), self.device)

    def payload(self, codec: Codec) -> Tensor:
        """Room for the bytes of all chunks, zero-filled, a row each."""
        size = self.comm.size
        num_bytes = codec.payload_bytes(self.numel // size)
        return self.comm.allocate(size * num_bytes, torch.uint8, self.device).view(size, num_bytes)

    def numbers(self, numel: int) -> Tensor:
        """Room for sums, zero-filled."""
        return torch.zeros(numel, dtype=state_dtype(self.dtype), device=self.device)


class CodedPassage(Passage):
    """One leg: each rank's payload to the owners, who decode and sum in rank order.

    Args:
        codec: what makes bytes of numbers.
        feedback: keep what it drops.
        track: see there.
        direction: the kind of its residual, and part of its random numbers' key.
        decay: share of what was kept that is still there the next time.
    """

    def __init__(self, codec: Codec, feedback: bool, track: Track, direction: str = "up", decay: float = 1.0) -> None:
        self.work = None
        self.squares = 0.0
        self._track = track
        self._direction = direction
        self._recv_RB = track.payload(codec)
        residual_N = track.numbers(track.numel) if feedback else None
        self._coder = Coder(codec, track.payload(codec), residual_N, track.padding(codec), track.scratch, decay)
        self._padding_S = track.padding(codec, track.comm.rank)
        self.total = track.numbers(track.numel // track.comm.size)

    def codes(self, step: int) -> bool:
        return True

    def launch(self, send_N: Tensor, departure: Departure) -> int:
        track = self._track
        idle = clipped(departure.idle, track.offset, track.offset + track.numel)
        key = stream_key(track.bucket, departure.step, self._direction, track.comm.rank)
        self._coder.encode(send_N, departure.factor, idle, Stream(key, track.offset))
        self.work = track.comm.all_to_all(self._recv_RB.view(-1), self._coder.payload_RB.view(-1))
        return bytes_to_others(self._recv_RB)

    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        self.squares = 0.0
        rank, size = self._track.comm.rank, self._track.comm.size
        self._recv_RB[rank].copy_(self._coder.payload_RB[rank])
        decoded_N = self._track.scratch.take(self._track.numel, self.total.dtype, self.total.device)
        self._coder.codec.decode(self._recv_RB, decoded_N.view(size, -1))
        decoded_N.view(size, -1).index_fill_(1, self._padding_S, 0.0)
        self.squares = sum_in_rank_order([chunk(decoded_N, i, size) for i in range(size)], self.total, scale)

    def go_on(self) -> int | None:
        return None

    def commit(self) -> None:
        self._coder.commit()

    @property
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        residual_N = self._coder.residual_N
        return {} if residual_N is None else {self._direction: (residual_N, self._track.offset)}

    @property
    def buffer_bytes(self) -> int:
        return 2 * self._recv_RB.numel() + self.total.numel() * self.total.element_size()


class RoundTrip(Passage):
    """Two legs, there and back: sums by owners of a piece, whose mean comes back coded to everybody.

    Each hop has a residual of its own size; everybody decodes the same bytes, the owner too.
    """

    def __init__(self, codec: Codec, feedback: bool, track: Track, decay: float = 1.0) -> None:
        self.work = None
        self.squares = 0.0
        self._track = track
        self._there = CodedPassage(codec, feedback, track, "across", decay)
        self._codec = codec
        size, rank = track.comm.size, track.comm.rank
        piece = track.numel // size
        self._offset = track.offset + rank * piece
        self._payload_RB = track.payload(codec)
        residual_S = track.numbers(piece) if feedback else None
        own_RB, padding_S = self._payload_RB[rank : rank + 1], track.padding(codec, rank)
        self._back = Coder(codec, own_RB, residual_S, padding_S, track.scratch)
        self._padding = track.padding(codec)
        self._returning = False
        self._step = 0
        self.total = track.numbers(track.numel)

    def codes(self, step: int) -> bool:
        return True

    def launch(self, send_N: Tensor, departure: Departure) -> int:
        self._returning, self._step = False, departure.step
        num_bytes = self._there.launch(send_N, departure)
        self.work = self._there.work
        return num_bytes

    def take_in(self, scale: float, unused: Sequence[Run]) -> None:
        rank, size = self._track.comm.rank, self._track.comm.size
        if not self._returning:
            self._there.take_in(scale, unused)
            mean_S = self._there.total
            stream = Stream(stream_key(self._track.bucket, self._step, "back"), self._offset)
            idle = list(clipped(unused, self._offset, self._offset + mean_S.numel()))
            for start, stop in idle:
                mean_S[start:stop].zero_()  # which gradients are, and momentum is not
            self._back.encode(mean_S, 1.0, idle, stream)
            return
        self.squares = 0.0
        self._codec.decode(self._payload_RB, self.total.view(size, -1))
        self.total.index_fill_(0, self._padding, 0.0)
        own_S = chunk(self.total, rank, size)
        self.squares = sum_in_rank_order([own_S], own_S, 1.0)

    def go_on(self) -> int | None:
        if self._returning:
            return None
        self._returning = True
        self.work = self._track.comm.all_gather(self._payload_RB.view(-1))
        return bytes_to_others(self._payload_RB)

    def commit(self) -> None:
        self._there.commit()
        self._back.commit()

    @property
    def residuals(self) -> Mapping[str, tuple[Tensor, int]]:
        back_S = self._back.residual_N
        return {} if back_S is None else {**self._there.residuals, "back": (back_S, self._offset)}

    @property
    def buffer_bytes(self) -> int:
        own = self._payload_RB.numel() + self.total.numel() * self.total.element_size()
        return self._there.buffer_bytes + own


def bytes_to_others(payload_RB: Tensor) -> int:
    """What a rank sends of a payload of a row for each rank: all but its own."""
    return payload_RB.numel() - payload_RB.shape[1]
