"""Texts to train language models on: which files, which of them for testing, and their articles one by one."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from adamesh.data.article import Article, divided
from adamesh.data.formats import SUFFIXES, TextFile
from adamesh.errors import DataError

__all__ = ["TextFiles", "embedded_text", "find_text"]

# As a word of its own in a path: "wiki.train.tokens", "test/a.txt", "train-00001.parquet".
_ROLES = {
    "train": re.compile(r"(?<![a-z])train(?:ing)?(?![a-z])"),
    "valid": re.compile(r"(?<![a-z])(?:valid(?:ation)?|val|dev)(?![a-z])"),
    "test": re.compile(r"(?<![a-z])test(?:ing)?(?![a-z])"),
}
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class TextFiles:
    """The files of one text, in the order in which they are read."""

    train: tuple[TextFile, ...]
    test: tuple[TextFile, ...] = ()
    """Empty: the articles of ``train`` are divided (`adamesh.data.article.divided`)."""
    unused: tuple[TextFile, ...] = ()
    """Validation files beside training and test files."""

    def articles(self) -> Iterator[tuple[bool, Article]]:
        """Each article, and whether it is for testing.

        Raises:
            DataError: a file is damaged, or is not what its name says.
        """
        training = (article for file in self.train for article in file.articles())
        if not self.test:
            yield from divided(training)
            return
        yield from ((False, article) for article in training)
        yield from ((True, article) for file in self.test for article in file.articles())

    def fingerprint(self) -> str:
        """Hexadecimal digits that two texts share exactly if their bytes, and what these are for, are the same."""
        digest = hashlib.blake2b(digest_size=16)
        for role, texts in (("train", self.train), ("test", self.test)):
            for text in texts:
                own = hashlib.blake2b()
                with text.opened() as file:
                    while chunk := file.read(_CHUNK_BYTES):
                        own.update(chunk)
                digest.update(f"{role} {text.format} {text.name} ".encode() + own.digest())
        return digest.hexdigest()


@contextmanager
def embedded_text() -> Iterator[TextFiles]:
    """The text that ships with adamesh: two novels by Jane Austen, a chapter an article."""
    with as_file(files("adamesh.data") / "austen.txt.bz2") as path:
        yield TextFiles(train=(TextFile(path),))


def find_text(data: Path) -> TextFiles:
    """The text at a path: a file, a folder of files with all that lie deeper, or a zip archive of files.

    In a folder or an archive, what files are for is read off their paths in it. With files for training and for
    testing among them, those are the split; with one of the two missing, files for validation take its place;
    else all of it is one text.

    Raises:
        DataError: there is nothing, or no text in the folder.
    """
    if data.is_dir():
        below = (path.relative_to(data) for path in data.rglob("*") if path.is_file())
        found = {str(path): TextFile(data / path) for path in below}
    elif data.suffix == ".zip":
        try:
            with ZipFile(data) as archive:
                found = {name: TextFile(data, name) for name in archive.namelist()}
        except (OSError, BadZipFile) as error:
            raise DataError(f"{data}: cannot be read, or is no zip archive: {error}") from error
    elif data.is_file():
        return TextFiles(train=(TextFile(data),))
    else:
        raise DataError(f"{data}: no such file or folder; leave data out to train on the embedded text")
    found = {place: found[place] for place in sorted(found) if place.endswith(SUFFIXES)}
    if not found:
        raise DataError(f"{data}: has no text in it; files of texts end in {', '.join(SUFFIXES)}")
    by_role: dict[str | None, list[TextFile]] = {}
    for place, file in found.items():
        role = next((role for role, word in _ROLES.items() if word.search(place.lower())), None)
        by_role.setdefault(role, []).append(file)
    train, valid, test = (tuple(by_role.get(role, ())) for role in _ROLES)
    if train and test:
        return TextFiles(train, test, unused=valid)
    if valid and (train or test):
        return TextFiles(train or valid, test or valid)
    return TextFiles(train=tuple(found.values()))
