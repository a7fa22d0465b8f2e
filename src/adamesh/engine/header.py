"""The header of a step: what every rank must know of the others before a step can be made, in a few hundred bytes."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Flags", "Header", "Vote"]

Flags = Sequence[bool] | npt.NDArray[np.bool_]

_HEAD = struct.Struct("<IQ8sBdH")
_VOTE = struct.Struct("<Bdd")


@dataclass(frozen=True)
class Header:
    """One rank's view of the window that ends. Flags are per bucket or per slot, in layout order."""

    epoch: int
    step: int
    settings: bytes
    """Eight bytes that tell this rank's hyper-parameters from others."""
    failed: bool
    """This rank has an error to raise; everybody raises it."""
    work_s: float
    """Seconds that this rank worked since its last step, waiting left out."""
    resend: Flags
    """Buckets that were completed or rewritten after they left."""
    wide: Flags
    """Low-precision buckets that hold sums of several backwards in float32."""
    used: Flags
    """Slots that have a gradient."""
    changed: Flags
    """Slots whose parameter was written from outside since the last commit."""
    note: bytes = b""
    """What the caller wants the others to know, at most 65,535 bytes."""

    def pack(self) -> bytes:
        """The same length on every rank of one layout, notes aside."""
        flags = np.array([*self.resend, *self.wide, *self.used, *self.changed], dtype=bool)
        head = _HEAD.pack(self.epoch, self.step, self.settings, self.failed, self.work_s, len(self.note))
        return head + self.note + np.packbits(flags).tobytes()

    @classmethod
    def unpack(cls, message: bytes, num_buckets: int, num_slots: int) -> "Header":
        """The inverse of :meth:`pack`."""
        epoch, step, settings, failed, work_s, length = _HEAD.unpack_from(message)
        note, packed = message[_HEAD.size : _HEAD.size + length], message[_HEAD.size + length :]
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8)).astype(bool)
        cuts = np.cumsum([num_buckets, num_buckets, num_slots, num_slots])
        resend, wide, used, changed, _ = np.split(bits, cuts)
        return cls(epoch, step, settings, bool(failed), work_s, resend, wide, used, changed, note)


@dataclass(frozen=True)
class Vote:
    """One rank's word before the commit: whether it is ready, and its share of sums over all of them."""

    failed: bool
    squares: float
    """Of the squared gradient norm,"""
    measured: float = 0.0
    """and of what the rule has asked for (`Rule.measures`)."""
    restless: bool = False
    """Somebody asks this rank to come or to go."""
    note: bytes = b""
    """What the guard wants the others to know."""

    def pack(self) -> bytes:
        """Seventeen bytes, and the note."""
        return _VOTE.pack(self.failed | self.restless << 1, self.squares, self.measured) + self.note

    @classmethod
    def unpack(cls, message: bytes) -> "Vote":
        """The inverse of :meth:`pack`."""
        flags, squares, measured = _VOTE.unpack_from(message)
        return cls(bool(flags & 1), squares, measured, bool(flags & 2), message[_VOTE.size :])
