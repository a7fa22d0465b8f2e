"""Texts to train language models on: where they lie, in which format, and their articles one by one."""

import bz2
import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import BinaryIO, cast

from adamesh.data.article import Article, divided
from adamesh.data.dump import dump_articles
from adamesh.data.plain import plain_articles
from adamesh.errors import ConfigurationError, DataError

__all__ = ["TextFiles", "embedded_text", "find_text", "read_articles"]

_SUFFIXES = (".txt", ".txt.bz2", ".text", ".tokens", ".raw", ".xml", ".xml.bz2", ".parquet")
_TRAIN = re.compile(r"(?<![a-z])train(?:ing)?(?![a-z])")
_VALID = re.compile(r"(?<![a-z])(?:valid(?:ation)?|val|dev)(?![a-z])")
_TEST = re.compile(r"(?<![a-z])test(?:ing)?(?![a-z])")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class TextFiles:
    """The files of one text, in the order in which they are read."""

    train: tuple[Path, ...]
    test: tuple[Path, ...] = ()
    """Empty: the articles of ``train`` are divided (`adamesh.data.article.divided`)."""
    unused: tuple[Path, ...] = ()
    """Validation files beside training and test files."""

    def articles(self) -> Iterator[tuple[bool, Article]]:
        """Each article, and whether it is for testing.

        Raises:
            DataError: a file is damaged, or is not what its name says.
        """
        if not self.test:
            yield from divided(_of_all(self.train))
            return
        for is_test, paths in ((False, self.train), (True, self.test)):
            yield from ((is_test, article) for article in _of_all(paths))

    def fingerprint(self) -> str:
        """Hexadecimal digits that two texts share exactly if their bytes, and what these are for, are the same."""
        digest = hashlib.blake2b(digest_size=16)
        for role, paths in (("train", self.train), ("test", self.test)):
            for path in paths:
                digest.update(f"\0{role} {_format(path)} {path.stat().st_size}\0".encode())
                with path.open("rb") as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        digest.update(chunk)
        return digest.hexdigest()


@contextmanager
def embedded_text() -> Iterator[TextFiles]:
    """The text that ships with adamesh: two novels of Jane Austen's, a chapter an article."""
    with as_file(files("adamesh.data") / "austen.txt.bz2") as path:
        yield TextFiles(train=(path,))


def find_text(data: Path) -> TextFiles:
    """The text at a path: a file, or a folder of files, with all that lie deeper.

    In a folder, what files are for is read off their paths below it. With files for training and for testing in
    it, those are the split; with one of the two missing, files for validation take its place; else all of it is
    one text.

    Raises:
        DataError: there is nothing, or no text in the folder.
    """
    if data.is_file():
        return TextFiles(train=(data,))
    if not data.is_dir():
        raise DataError(f"{data}: no such file or folder; leave data out to train on the embedded text")
    found = sorted(path for path in data.rglob("*") if path.name.endswith(_SUFFIXES) and path.is_file())
    if not found:
        raise DataError(f"{data}: has no text in it; files of texts end in {', '.join(_SUFFIXES)}")
    roles: dict[str, list[Path]] = {"train": [], "valid": [], "test": []}
    for path in found:
        below = str(path.relative_to(data)).lower()
        for role, pattern in (("train", _TRAIN), ("valid", _VALID), ("test", _TEST)):
            if pattern.search(below):
                roles[role].append(path)
                break
    train, valid, test = (tuple(roles[role]) for role in ("train", "valid", "test"))
    if train and test:
        return TextFiles(train, test, unused=valid)
    if valid and (train or test):
        return TextFiles(train or valid, test or valid)
    return TextFiles(train=tuple(found))


def read_articles(path: Path) -> Iterator[Article]:
    """The articles of one file, by the format that its name tells: a Wikipedia dump, parquet, or plain text.

    Raises:
        DataError: the file is missing, damaged, cut short, or of another format.
    """
    kind = _format(path)
    try:
        if kind == "parquet":
            yield from _parquet_articles(path)
            return
        with bz2.open(path) if path.name.endswith(".bz2") else path.open("rb") as opened:
            file = cast(BinaryIO, opened)
            if kind == "dump":
                yield from dump_articles(file, path)
            else:
                yield from plain_articles(io.TextIOWrapper(file, encoding="utf-8-sig"), _place(path))
    except EOFError as error:
        raise DataError(f"{path}: is cut short: the archive has no end; fetch it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start} of a block)") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read, or is damaged: {error}") from error


def _of_all(paths: tuple[Path, ...]) -> Iterator[Article]:
    return (article for path in paths for article in read_articles(path))


def _place(path: Path) -> str:
    """What articles without titles are called by: no more than what a text keeps when it is moved."""
    return "/".join(path.parts[-3:])


def _format(path: Path) -> str:
    if path.name.endswith((".xml", ".xml.bz2")):
        return "dump"
    return "parquet" if path.name.endswith(".parquet") else "plain"


def _parquet_articles(path: Path) -> Iterator[Article]:
    """A row an article: the column ``text``, and ``title`` if there is one."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigurationError(f"{path}: parquet needs an extra: pip install 'adamesh[parquet]'") from error
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise DataError(f"{path}: has no column text, but {', '.join(names) or 'none'}")
            columns = [name for name in ("text", "title") if name in names]
            row = 0
            for batch in file.iter_batches(columns=columns, batch_size=1024):
                for record in batch.to_pylist():
                    if record["text"]:
                        yield Article(str(record.get("title") or f"{_place(path)}, row {row}"), str(record["text"]))
                    row += 1
    except pa.ArrowException as error:
        raise DataError(f"{path}: is damaged, or no parquet file: {error}") from error
