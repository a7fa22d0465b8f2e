"""Deliveries: a fresh slice's way DOWN, from its owner into every replica's copy of the bucket.

Exact, the slice itself is gathered in place. Coded, what is gathered is the *difference* between the owner's master
and what everybody holds, and every rank, the owner too, adds the same decoded bytes: replicas stay bit-identical, and
what the codec dropped is still in the next difference, with no memory of its own.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from adamesh.codecs.base import Codec, Stream
from adamesh.comm.base import Communicator, Work
from adamesh.comm.channel import ExactDown
from adamesh.comm.coder import Scratch, padding_of, stream_key
from adamesh.engine.bucket import LiveBucket
from adamesh.engine.owner import Shard

__all__ = ["CodedDelivery", "Delivery", "ExactDelivery"]


class Delivery(ABC):
    """How slices are published on one island."""

    @abstractmethod
    def launch(self, shard: Shard, used: set[int], step: int) -> tuple[Work | None, int]:
        """Start sending this rank's slice of a bucket; returns what to wait for, and the bytes it puts on the wire."""

    @abstractmethod
    def land(self, bucket: LiveBucket, used: set[int]) -> None:
        """After the wait: bring ``param_N`` up to date."""

    @property
    @abstractmethod
    def buffer_bytes(self) -> int:
        """What is allocated."""


class ExactDelivery(Delivery):
    """The slices themselves, in the parameters' precision, straight into the bucket."""

    def __init__(self, comm: Communicator) -> None:
        self._down = ExactDown(comm) if comm.size > 1 else None

    def launch(self, shard: Shard, used: set[int], step: int) -> tuple[Work | None, int]:
        if shard.separate:
            shard.view_S.copy_(shard.master_S)
        return self.gather(shard.bucket)

    def gather(self, bucket: LiveBucket) -> tuple[Work | None, int]:
        """Start sending this rank's slice of what a bucket holds; returns what `launch` does."""
        if self._down is None:
            return None, 0
        return self._down.launch(bucket.param_N), self._down.bytes_sent(bucket.param_N)

    def land(self, bucket: LiveBucket, used: set[int]) -> None:
        return None

    @property
    def buffer_bytes(self) -> int:
        return 0


class CodedDelivery(Delivery):
    """The coded difference between the owner's master and what everybody holds.

    Parameters that no rank used do not move: what is left of their difference waits until they are used again.
    """

    def __init__(self, codec: Codec, comm: Communicator, scratch: Scratch) -> None:
        self._codec = codec
        self._comm = comm
        self._scratch = scratch
        self._payloads: dict[int, Tensor] = {}
        self._paddings: dict[int, Tensor] = {}

    def launch(self, shard: Shard, used: set[int], step: int) -> tuple[Work | None, int]:
        index, rank, size = shard.bucket.place.index, self._comm.rank, self._comm.size
        length = shard.master_S.numel()
        payload_RB = self._payloads.get(index)
        if payload_RB is None:
            num_bytes = self._codec.payload_bytes(length)
            flat = self._comm.allocate(size * num_bytes, torch.uint8, shard.master_S.device)
            payload_RB = self._payloads[index] = flat.view(size, num_bytes)
            runs = [(slot.start, slot.stop) for slot in shard.bucket.place.slots]
            self._paddings[index] = padding_of(self._codec, runs, 0, size * length, flat.device)
        difference_S = self._scratch.take(length, shard.master_S.dtype, shard.master_S.device)
        torch.sub(shard.master_S, shard.view_S, out=difference_S)
        for piece in shard.pieces:
            if piece.place.param not in used:
                difference_S[piece.place.offset : piece.place.offset + piece.place.stop - piece.place.start].zero_()
        # No rank in the key: what sets owners' numbers apart is where in the bucket their slices lie.
        stream = Stream(stream_key(index, step, "down"), rank * length)
        self._codec.encode(difference_S.view(1, -1), payload_RB[rank : rank + 1], stream)
        return self._comm.all_gather(payload_RB.view(-1)), payload_RB.numel() - payload_RB.shape[1]

    def land(self, bucket: LiveBucket, used: set[int]) -> None:
        payload_RB = self._payloads[bucket.place.index]
        decoded_N = self._scratch.take(bucket.place.numel, bucket.state_dtype, bucket.param_N.device)
        self._codec.decode(payload_RB, decoded_N.view(self._comm.size, -1))
        if all(slot.place.param in used for slot in bucket.slots):
            bucket.param_N.add_(decoded_N.index_fill_(0, self._paddings[bucket.place.index], 0.0))
            return
        for slot in bucket.slots:
            if slot.place.param in used:
                slot.value.add_(decoded_N[slot.place.start : slot.place.stop])

    @property
    def buffer_bytes(self) -> int:
        return sum(payload.numel() for payload in self._payloads.values())
