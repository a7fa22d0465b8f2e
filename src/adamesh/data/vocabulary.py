"""What a vocabulary is: numbers for the pieces of a text. And the one that needs nothing: words, or else bytes."""

import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import ClassVar, Self

__all__ = ["Vocabulary", "Words"]


class Vocabulary(ABC):
    """Numbers for the pieces of a text, learned from it. The same text gives the same vocabulary, always."""

    separator: ClassVar[int]
    """Stands after each article, and nowhere else."""

    @classmethod
    @abstractmethod
    def learned(cls, texts: Iterable[str], size: int) -> Self:
        """The vocabulary of at most ``size`` numbers that these texts suggest."""

    @classmethod
    @abstractmethod
    def restored(cls, saved: str) -> Self:
        """The vocabulary that `saved` was called on."""

    @abstractmethod
    def saved(self) -> str:
        """All of it, as a text."""

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text's numbers, without the separator."""

    @abstractmethod
    def shown(self, number: int) -> str:
        """The piece of text that a number stands for, for people."""

    @abstractmethod
    def __len__(self) -> int:
        """How many numbers there are; each is below this."""


class Words(Vocabulary):
    """Frequent words and marks, with the space before them; what is not frequent is spelt in UTF-8 bytes.

    0 is the separator, 1 to 256 are the bytes, and words follow, the most frequent first. Nothing is lost:
    `decode` gives the text back.
    """

    separator = 0

    _PIECE = re.compile(r" ?<unk>| ?[^\W_]+| ?[^\w\s]| ?_|\s")
    _FIRST_WORD = 257

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        numbers = {word: number for number, word in enumerate(words, start=self._FIRST_WORD)}

        @lru_cache(maxsize=1 << 18)
        def spelt(piece: str) -> tuple[int, ...]:
            number = numbers.get(piece)
            return (number,) if number is not None else tuple(1 + byte for byte in piece.encode())

        self._spelt = spelt

    @classmethod
    def learned(cls, texts: Iterable[str], size: int) -> Self:
        counts = Counter(chain.from_iterable(cls._PIECE.findall(text) for text in texts))
        frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))
        return cls(frequent[: max(0, size - cls._FIRST_WORD)])

    @classmethod
    def restored(cls, saved: str) -> Self:
        return cls(json.loads(saved))

    def saved(self) -> str:
        return json.dumps(self._words)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(chain.from_iterable(map(self._spelt, self._PIECE.findall(text)))) for text in texts]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text that has these numbers; bytes that are no UTF-8 become replacement characters."""
        pieces = (
            bytes([number - 1]) if number < self._FIRST_WORD else self._words[number - self._FIRST_WORD].encode()
            for number in numbers
            if number != self.separator
        )
        return b"".join(pieces).decode(errors="replace")

    def shown(self, number: int) -> str:
        """A word with the space before it; a byte that is no character by itself as ``<0xC3>``."""
        if number == self.separator:
            return "<end>"
        if 128 < number < self._FIRST_WORD:
            return f"<0x{number - 1:02X}>"
        return self.decode([number])

    def __len__(self) -> int:
        return self._FIRST_WORD + len(self._words)
