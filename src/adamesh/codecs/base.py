"""What a codec is: pure tensor code that makes bytes of numbers and numbers of bytes, of sizes known beforehand.

Shape suffixes here: ``_RN`` rows of ``N`` elements each, ``_RB`` the same rows as bytes. A row is what one rank is
going to own; rows are coded independently of each other, so where a bucket is cut changes nothing.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Codec", "Stream"]


@dataclass(frozen=True)
class Stream:
    """Where a stochastic codec takes its random numbers from: a counter-based stream, the same on any device.

    Element ``i`` of an encoded matrix, counted row by row, has the counter ``start + i``, which is its offset in
    the bucket: the numbers do not depend on how many ranks share the bucket.
    """

    key: int
    """Sets this encode's numbers apart: of seed, bucket, step, direction and, on the way up, the sender."""
    start: int = 0


class Codec(ABC):
    """A way to write numbers in fewer bytes."""

    needs_feedback: bool
    """Whether what it drops must be kept and sent later (`adamesh.codecs.feedback.Feedback`) for Adam to converge."""

    keeps_zeros: bool = True
    """Whether a zero is decoded as zero beside others that are not, as padding lies beside numbers."""

    @property
    @abstractmethod
    def grain(self) -> int:
        """Elements. The codec's blocks start on multiples of it, counted from the start of a bucket, and every row's
        length is a multiple of it. A multiple of 64.
        """

    @abstractmethod
    def payload_bytes(self, numel: int) -> int:
        """Bytes that ``numel`` elements take, scales and flags included: always the same, and a multiple of 8."""

    @abstractmethod
    def encode(self, x_RN: Tensor, out_RB: Tensor, stream: Stream) -> None:
        """Write ``x_RN`` (floating point [rows, numel]) as uint8 [rows, payload_bytes(numel)], contiguous.

        ``x_RN`` is left as it is. A block with a NaN or an infinity in it is marked, and decodes to NaN.
        """

    @abstractmethod
    def decode(self, payload_RB: Tensor, out_RN: Tensor) -> None:
        """Write what ``payload_RB`` says to ``out_RN`` (float32 or float64): the same bits wherever it is decoded."""
