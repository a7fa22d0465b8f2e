"""Letters to owners and their answers, as bytes: every length follows from the layout, and nothing is pickled.

letter   head | hyper-parameters, float64 each | a bit a parameter: has it a gradient | the gradient
answer   head | the slice, in the parameters' precision
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from adamesh.rules.base import Hyper

__all__ = [
    "ANSWER_HEAD",
    "Answer",
    "Form",
    "Kind",
    "LetterFormat",
    "LetterHead",
    "Verdict",
    "numbers_of",
    "with_numbers",
]

_LETTER = struct.Struct("<BBHIqq")
_ANSWER = struct.Struct("<qqdB7x")
ANSWER_HEAD = _ANSWER.size
"""Bytes before the slice."""


class Kind(IntEnum):
    """What a letter is for."""

    PUSH = 0
    PULL = 1
    """Nothing but the newest slice is wanted."""
    HALT = 2
    """The writer writes nothing more before everybody has come to rest."""


class Form(IntEnum):
    """How a gradient is written."""

    EXACT = 0
    WIDE = 1
    """In float32, though the parameters are of lower precision: a sum of several backwards."""
    CODED = 2


class Verdict(IntEnum):
    """What became of a push."""

    ACCEPTED = 0
    STALE = 1
    NON_FINITE = 2
    NOTHING = 3
    """There was nothing in it for this owner."""


@dataclass(frozen=True)
class LetterHead:
    """What every letter begins with."""

    kind: Kind
    form: Form = Form.EXACT
    bucket: int = 0
    clock: int = 0
    """Steps that the writer has made."""
    version: int = 0
    """Of the slice that the gradient was computed with."""

    NUM_BYTES: ClassVar[int] = _LETTER.size

    def write(self, letter: Tensor) -> None:
        """Into the letter's first bytes."""
        head = _LETTER.pack(self.kind, self.form, 0, self.bucket, self.clock, self.version)
        letter[: _LETTER.size].numpy()[:] = np.frombuffer(head, dtype=np.uint8)

    @classmethod
    def read(cls, letter: Tensor) -> "LetterHead":
        """The inverse of :meth:`write`."""
        kind, form, _, bucket, clock, version = _LETTER.unpack(letter[: _LETTER.size].numpy().tobytes())
        return cls(Kind(kind), Form(form), bucket, clock, version)


@dataclass(frozen=True)
class Answer:
    """What an owner says of a letter, before the slice."""

    version: int
    """Of the slice that follows."""
    staleness: int
    """Updates that the slice had had since the writer read it."""
    squares: float
    """The sum of squares of the gradient that arrived."""
    verdict: Verdict

    def write(self, answer: Tensor) -> None:
        """Into the answer's first bytes."""
        head = _ANSWER.pack(self.version, self.staleness, self.squares, self.verdict)
        answer[:ANSWER_HEAD].numpy()[:] = np.frombuffer(head, dtype=np.uint8)

    @classmethod
    def read(cls, answer: Tensor) -> "Answer":
        """The inverse of :meth:`write`."""
        version, staleness, squares, verdict = _ANSWER.unpack(answer[:ANSWER_HEAD].numpy().tobytes())
        return cls(version, staleness, squares, Verdict(verdict))


@dataclass(frozen=True)
class LetterFormat:
    """Where things lie in letters about one chunk of a bucket."""

    num_hypers: int
    num_slots: int
    body_bytes: Mapping[Form, int]

    @property
    def _used(self) -> tuple[int, int]:
        start = _LETTER.size + 8 * self.num_hypers
        return start, start + -(-self.num_slots // 64) * 8

    def length(self, kind: Kind, form: Form) -> int:
        """Bytes of a letter."""
        return self._used[1] + (self.body_bytes[form] if kind == Kind.PUSH else 0)

    @property
    def longest(self) -> int:
        return self._used[1] + max(self.body_bytes.values())

    def write_details(self, letter: Tensor, numbers: Sequence[float], used: Sequence[bool]) -> None:
        """Hyper-parameters and used slots."""
        start, stop = self._used
        letter[_LETTER.size : start].view(torch.float64).copy_(torch.tensor(numbers, dtype=torch.float64, device="cpu"))
        bits = np.packbits(np.array(used, dtype=bool))
        letter[start:stop].zero_()
        letter[start : start + len(bits)].numpy()[:] = bits

    def read_details(self, letter: Tensor) -> tuple[list[float], list[bool]]:
        """The inverse of :meth:`write_details`."""
        start, stop = self._used
        numbers: list[float] = letter[_LETTER.size : start].view(torch.float64).tolist()
        bits = np.unpackbits(letter[start:stop].numpy())[: self.num_slots]
        return numbers, bits.astype(bool).tolist()

    def body(self, letter: Tensor, form: Form) -> Tensor:
        """The bytes of the gradient, as a view."""
        start = self._used[1]
        return letter[start : start + self.body_bytes[form]]


def numbers_of(names: Sequence[str], hyper: Hyper) -> list[float]:
    """The hyper-parameters of a rule, one number after the other."""
    numbers: list[float] = []
    for name in names:
        if name in hyper:
            value = hyper[name]
            numbers.extend(map(float, value) if isinstance(value, tuple | list) else [float(value)])
    return numbers


def with_numbers(names: Sequence[str], template: Hyper, numbers: Sequence[float]) -> dict[str, Any]:
    """Hyper-parameters of the same kinds as the template's, with other values: those of `numbers_of`."""
    hyper, rest = dict(template), iter(numbers)
    for name in names:
        if name in template:
            value = template[name]
            if isinstance(value, tuple | list):
                hyper[name] = tuple(next(rest) for _ in value)
            else:
                hyper[name] = bool(next(rest)) if isinstance(value, bool) else next(rest)
    return hyper
