"""A text as numbers: read, split by article, its vocabulary learned, encoded, and kept for the next run.

Where a text is large neither it nor its numbers are ever in memory whole, and of several workers on a machine one
does the work.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from adamesh.data.cache import cache_root, cached
from adamesh.data.text import TextFiles, embedded_text, find_text
from adamesh.data.vocabulary import Vocabulary
from adamesh.errors import DataError, DiskFull

__all__ = ["Corpus", "load_corpus"]

# Part of the key: to be raised when another version of this package would make other numbers of the same text.
_FORMAT = 1
_LEARN_CHARS = 64_000_000
_TOGETHER = 256
# A shorter article says little, and many of them would make sequences of little but separators.
_SHORTEST_ARTICLE = 8


@dataclass(frozen=True)
class Corpus:
    """Both splits as one long row of numbers each, a separator after every article."""

    train: NDArray[Any]
    test: NDArray[Any]
    unigram: Tensor
    """Log-probability of each number in the training split, smoothed; float32 [size asked for]."""
    vocabulary: Vocabulary
    """What the numbers mean."""
    source: str
    """One line: which text, how much of it."""


def load_corpus(data: Path | None, kind: type[Vocabulary], size: int, least: int) -> Corpus:
    """The corpus of the text at ``data``, or of the embedded one.

    Args:
        data: a file or a folder, as `adamesh.data.text.find_text` takes it.
        kind: of vocabulary.
        size: numbers in it, at most.
        least: numbers that each split must have, to make a sample of.

    Raises:
        DataError: the text is missing, damaged or too small, or the cache cannot be written.
        DiskFull: there is no room for what is made of it.
    """
    if data is None:
        with embedded_text() as text, tempfile.TemporaryDirectory() as scratch:
            try:
                _make(Path(scratch), text, kind, size)
            except OSError as error:
                if DiskFull.is_behind(error):
                    raise DiskFull.at(scratch, "nothing was kept; TMPDIR says where") from error
                raise
            return _opened(
                Path(scratch), kind, size, "two novels by Jane Austen embedded in the package", in_memory=True
            )
    text = find_text(data)

    def make(folder: Path) -> None:
        lengths = _make(folder, text, kind, size)
        if min(lengths) < least:
            raise DataError(
                f"{data}: is too little text: it makes {lengths[0]:,} tokens for training and {lengths[1]:,} for "
                f"testing, and one sample takes {least}; add articles to it"
            )

    key = f"text-{_FORMAT}-{kind.__name__.lower()}-{size}-{text.fingerprint()}"
    folder = cached(cache_root(), key, make)
    name = f"text from {data}"
    if text.unused:
        name += f" (not used: {', '.join(path.name for path in text.unused)})"
    return _opened(folder, kind, size, name, in_memory=False)


def _make(folder: Path, text: TextFiles, kind: type[Vocabulary], size: int) -> tuple[int, int]:
    """Write the corpus into a folder; the splits' lengths. The text is read twice: to learn from, and to encode."""
    vocabulary = kind.learned(_sample(text), size)
    (folder / "vocabulary.json").write_text(vocabulary.saved(), encoding="utf-8")
    counts = np.zeros(size, np.int64)
    num_articles = [0, 0]
    with (folder / "train.npy").open("wb") as train, (folder / "test.npy").open("wb") as test:
        dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
        rows = _Row(train, dtype), _Row(test, dtype)
        for is_test, numbers in _encoded(text, vocabulary):
            rows[is_test].append(numbers)
            num_articles[is_test] += 1
            if not is_test:
                np.add.at(counts, numbers, 1)
        for row in rows:
            row.finish()
    np.save(folder / "counts.npy", counts)
    (folder / "articles.json").write_text(json.dumps(num_articles), encoding="utf-8")
    return rows[0].length, rows[1].length


def _encoded(text: TextFiles, vocabulary: Vocabulary) -> Iterator[tuple[bool, list[int]]]:
    """Whether it is for testing, and the numbers, of each article that is not too short."""
    articles = text.articles()
    while group := list(islice(articles, _TOGETHER)):
        encoded = vocabulary.encode([article.text for _, article in group])
        for (is_test, _), numbers in zip(group, encoded, strict=True):
            if len(numbers) >= _SHORTEST_ARTICLE:
                yield is_test, [*numbers, vocabulary.separator]


def _sample(text: TextFiles) -> Iterator[str]:
    """The first 64 million characters for training: a vocabulary is no better for more."""
    chars = 0
    for is_test, article in text.articles():
        if not is_test:
            yield article.text
            chars += len(article.text)
            if chars >= _LEARN_CHARS:
                return


class _Row:
    """A one-dimensional .npy file of numbers, written as they come."""

    def __init__(self, file: BinaryIO, dtype: np.dtype[Any]) -> None:
        self._file = file
        self._dtype = dtype
        self.length = 0
        self._write_header()

    def append(self, numbers: list[int]) -> None:
        self._file.write(np.array(numbers, self._dtype).tobytes())
        self.length += len(numbers)

    def finish(self) -> None:
        """Write the header again, now that the length is known; numpy leaves room for it."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.length,)}
        npy.write_array_header_1_0(self._file, header)


def _opened(folder: Path, kind: type[Vocabulary], size: int, name: str, *, in_memory: bool) -> Corpus:
    rows = folder / "train.npy", folder / "test.npy"
    try:
        train, test = (np.load(row, mmap_mode=None if in_memory else "r", allow_pickle=False) for row in rows)
        counts = torch.from_numpy(np.load(folder / "counts.npy", allow_pickle=False))
        articles = json.loads((folder / "articles.json").read_text(encoding="utf-8"))
        vocabulary = kind.restored((folder / "vocabulary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: is damaged ({error}); delete it, it will be made again") from error
    return Corpus(
        train=train,
        test=test,
        # One is added to each count (Laplace), so that a number that never occurred has a probability.
        vocabulary=vocabulary,
        unigram=((counts + 1).double() / (counts.sum() + size)).log().float(),
        source=f"{name}: real, {articles[0]:,} articles ({len(train):,} tokens) for training, "
        f"{articles[1]:,} ({len(test):,}) for testing",
    )
