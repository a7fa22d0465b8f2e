"""BERT's vocabulary: pieces of lower-case words (Wu et al. 2016; Devlin et al. 2019), learned by `tokenizers`."""

import json
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Self

from adamesh.data.vocabulary import Vocabulary
from adamesh.errors import ConfigurationError

__all__ = ["WordPiece"]

_MOST_CHARACTERS = 1000
# WikiText's own mark for a word that it left out. Becomes one unknown piece, as SentencePiece shows those.
_LEFT_OUT = "<unk>"
_UNKNOWN = "\u2047"


class WordPiece(Vocabulary):
    """Pieces of words; ``##`` marks those that go on with a word. Numbers 0 to 4 are BERT's special tokens.

    Raises:
        ConfigurationError: the extra ``bert`` is not installed.
    """

    SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    CLS, SEP, MASK = 2, 3, 4
    separator = SEP

    def __init__(self, pieces: Sequence[str]) -> None:
        _, models, _ = _tokenizers()
        self._pieces = list(pieces)
        numbers = {piece: number for number, piece in enumerate(pieces)}
        # The special tokens are none to this tokenizer: "[MASK]" in a text is three marks and letters.
        self._tokenizer = _tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))

    @classmethod
    def learned(cls, texts: Iterable[str], size: int) -> Self:
        """Learned from texts that are held in memory.

        `tokenizers` numbers the characters inside words in the order of a hash table, which differs from run to
        run and decides which of two equally frequent pieces is kept. Given as "special", they have the numbers
        that we choose.
        """
        _, models, trainers = _tokenizers()
        texts = [text.replace(_LEFT_OUT, " ").replace(_UNKNOWN, " ") for text in texts]
        tokenizer = _tokenizer(models.WordPiece(unk_token="[UNK]"))
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(tokenizer.normalizer.normalize_str(text))
        frequent = [c for c in sorted(counts, key=lambda c: (-counts[c], c)) if not c.isspace()][:_MOST_CHARACTERS]
        alphabet = sorted(frequent)
        inside = [f"##{c}" for c in alphabet if not _stands_alone(c)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=max(size, len(cls.SPECIAL)),
            special_tokens=[*cls.SPECIAL, *inside],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        numbers: dict[str, int] = tokenizer.get_vocab()
        return cls(sorted(numbers, key=numbers.__getitem__))

    @classmethod
    def restored(cls, saved: str) -> Self:
        return cls(json.loads(saved))

    def saved(self) -> str:
        return json.dumps(self._pieces)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        marked = [text.replace(_LEFT_OUT, _UNKNOWN) for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(marked)]

    def shown(self, number: int) -> str:
        return self._pieces[number]

    def __len__(self) -> int:
        return len(self._pieces)


def _stands_alone(character: str) -> bool:
    """Whether BERT's pre-tokenizer makes a word of its own of it."""
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _tokenizer(model: Any) -> Any:
    tokenizers, _, _ = _tokenizers()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _tokenizers() -> tuple[Any, Any, Any]:
    try:
        import tokenizers
        from tokenizers import models, trainers
    except ImportError as error:
        raise ConfigurationError(
            "wikipedia-bert needs an extra for its vocabulary: pip install 'adamesh[bert]'"
        ) from error
    return tokenizers, models, trainers
