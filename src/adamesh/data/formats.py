"""The formats that texts come in: Wikipedia dumps, parquet and plain text, also packed with bzip2 or in a zip."""

import bz2
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast
from zipfile import BadZipFile, ZipFile

from adamesh.data.article import Article
from adamesh.data.dump import dump_articles
from adamesh.data.plain import plain_articles
from adamesh.errors import ConfigurationError, DataError

__all__ = ["SUFFIXES", "TextFile"]

SUFFIXES = (".txt", ".txt.bz2", ".text", ".tokens", ".raw", ".xml", ".xml.bz2", ".parquet")


@dataclass(frozen=True)
class TextFile:
    """One file of a text, on the disk or in a zip archive."""

    path: Path
    member: str = ""
    """Its name in the archive that ``path`` is; empty: ``path`` is the file."""

    def __str__(self) -> str:
        return f"{self.path}, {self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.member or self.path).name

    @property
    def format(self) -> str:
        """As the file's name tells it."""
        if self.name.endswith((".xml", ".xml.bz2")):
            return "dump"
        return "parquet" if self.name.endswith(".parquet") else "plain"

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file's bytes.

        Raises:
            DataError: whatever keeps them from being read, also while they are.
        """
        try:
            if self.member:
                with ZipFile(self.path) as archive, archive.open(self.member) as inside:
                    yield cast(BinaryIO, inside)
            else:
                with self.path.open("rb") as file:
                    yield file
        except EOFError as error:
            raise DataError(f"{self}: is cut short: it ends before the archive's end; fetch it again") from error
        except (OSError, BadZipFile) as error:
            raise DataError(f"{self}: cannot be read, or is damaged: {error}") from error

    def articles(self) -> Iterator[Article]:
        """The articles, one by one.

        Raises:
            DataError: the file is missing, damaged, cut short, or of another format.
        """
        # Articles without titles are called by no more of the path than a text keeps when it is moved.
        place = self.member or "/".join(self.path.parts[-3:])
        with self.opened() as packed:
            file = cast(BinaryIO, bz2.BZ2File(packed)) if self.name.endswith(".bz2") else packed
            match self.format:
                case "parquet":
                    yield from _parquet_articles(file, place, self)
                case "dump":
                    yield from dump_articles(file, str(self))
                case _:
                    try:
                        with io.TextIOWrapper(file, encoding="utf-8-sig") as lines:
                            yield from plain_articles(lines, place)
                    except UnicodeDecodeError as error:
                        raise DataError(f"{self}: is no UTF-8 text: {error.reason}") from error


def _parquet_articles(file: BinaryIO, place: str, origin: TextFile) -> Iterator[Article]:
    """A row an article: the column ``text``, and ``title`` if there is one."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ConfigurationError(f"{origin}: parquet needs an extra: pip install 'adamesh[parquet]'") from error
    try:
        with ParquetFile(file) as table:
            names = table.schema_arrow.names
            if "text" not in names:
                raise DataError(f"{origin}: has no column text, but {', '.join(names) or 'none'}; rename one")
            columns = [name for name in ("text", "title") if name in names]
            row = 0
            for batch in table.iter_batches(columns=columns, batch_size=1024):
                for record in batch.to_pylist():
                    if record["text"]:
                        yield Article(str(record.get("title") or f"{place}, row {row}"), str(record["text"]))
                    row += 1
    except pa.ArrowException as error:
        raise DataError(f"{origin}: is damaged, or no parquet file: {error}") from error
