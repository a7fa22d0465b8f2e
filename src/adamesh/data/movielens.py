"""MovieLens ratings (Harper & Konstan 2015) in the formats of ml-100k, ml-1m and ml-20m/25m/32m, folder or zip.

Which format it is, its files tell: ``u.data``, ``ratings.dat`` or ``ratings.csv``. What is known of movies and
users (``u.item``, ``u.user``, ``movies.dat``, ``users.dat``, ``movies.csv``) is used where it is there.
"""

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from adamesh.data.number_lines import Numbers, read_number_lines
from adamesh.data.ratings import Integers, Ratings
from adamesh.errors import DataError

__all__ = ["read_movielens"]

_COLUMNS = ("user", "item", "rating", "time")
_CSV_HEADER = b"userId,movieId,rating,timestamp"
_AGE_EDGES = (18, 25, 35, 45, 50, 56)  # ml-1m's own buckets
_OLD_GENRES = (
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)

Genres = dict[int, list[str]]
"""Movie to its genres."""
UserFields = dict[int, tuple[str, ...]]
"""User to age bucket, gender, occupation."""


@dataclass(frozen=True)
class _Format:
    """One of the formats: its files and how their lines read."""

    ratings: str
    separator: bytes
    movies: str
    genres: Callable[[Iterator[str]], Iterator[tuple[int, list[str]]]]
    """From the lines of the file of movies."""
    encoding: str
    users: str = ""
    """Empty: the format has no file of users."""
    fields: Callable[[str], tuple[int, tuple[str, ...]]] | None = None
    """From a line of the file of users."""


def read_movielens(path: Path) -> Ratings:
    """Read the folder that holds a format's files, or a zip of it.

    Raises:
        DataError: there is no such folder, it holds no such files, or a line of one is broken.
    """
    files = _Files(path)
    found = [f for f in _FORMATS if files.has(f.ratings)]
    if len(found) != 1:
        known = " or ".join(f.ratings for f in _FORMATS)
        what = f"holds {' and '.join(f.ratings for f in found)}" if found else "holds no ratings"
        raise DataError(f"{path}: {what}; give a folder or zip of MovieLens with exactly one of {known} in it")
    layout = found[0]
    users, items, values, times = _ratings(files, layout)
    user_ids, user_rows = np.unique(users.astype(np.int64), return_inverse=True)
    item_ids, item_rows = np.unique(items.astype(np.int64), return_inverse=True)
    movies = _genres(files, layout) if files.has(layout.movies) else {}
    people = _users(files, layout) if files.has(layout.users) else {}
    user_fields, field_sizes = _field_codes(people, user_ids)
    genres, num_genres = _genre_codes(movies, item_ids)
    size = f"{len(values):,} ratings of {len(user_ids):,} users and {len(item_ids):,} movies"
    return Ratings(
        user_ids=user_ids,
        item_ids=item_ids,
        users=user_rows,
        items=item_rows,
        values=values.astype(np.float32),
        times=times.astype(np.int64),
        user_fields=user_fields,
        field_sizes=field_sizes,
        genres=genres,
        num_genres=num_genres,
        origin=f"MovieLens from {path}: real, {size}",
    )


class _Files:
    """The files of a folder or of a zip, by their names without folders."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            raise DataError(f"{path}: no such folder or zip; leave data out to train on generated ratings")
        with _explained(path):
            if path.is_dir():
                self._names = {file.name: file.name for file in path.iterdir() if file.is_file()}
            else:
                with zipfile.ZipFile(path) as archive:
                    names = [name for name in archive.namelist() if not name.endswith("/")]
                self._names = {PurePosixPath(name).name: name for name in names}

    def has(self, name: str) -> bool:
        return name in self._names

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[IO[bytes], str]]:
        """The file, and what errors shall call it."""
        origin = str(self._path / self._names[name])
        with _explained(self._path):
            if self._path.is_dir():
                with (self._path / name).open("rb") as file:
                    yield file, origin
            else:
                with zipfile.ZipFile(self._path) as archive, archive.open(self._names[name]) as file:
                    yield file, origin

    def lines(self, name: str, encoding: str) -> tuple[list[str], str]:
        with self.open(name) as (file, origin):
            raw = file.read()
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise DataError(f"{origin}, line {line}: is not {encoding} text; restore the file") from error
        # Not splitlines(): in latin-1, titles have characters that it takes for ends of lines.
        return text.replace("\r\n", "\n").removesuffix("\n").split("\n"), origin


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is no readable folder or zip ({error}); restore it") from error


def _ratings(files: _Files, layout: _Format) -> list[Numbers]:
    with files.open(layout.ratings) as (file, origin):
        first_line = 1
        if layout.ratings.endswith(".csv"):
            header, first_line = file.readline().strip(), 2
            if header != _CSV_HEADER:
                raise DataError(f"{origin}, line 1: must be {_CSV_HEADER.decode()!r}, not {header[:80]!r}")
        columns = read_number_lines(file, origin, layout.separator, _COLUMNS, first_line)
    if not len(columns[0]):
        raise DataError(f"{origin}: holds no ratings; restore the file")
    values = columns[2]
    outside = (values < 0.5) | (values > 5)
    fraction = np.logical_or.reduce([numbers % 1 != 0 for numbers in (columns[0], columns[1], columns[3])])
    for wrong, rule in ((outside, "a rating must lie in 0.5 to 5"), (fraction, "all but the rating are whole numbers")):
        if wrong.any():
            index = int(wrong.argmax())
            line = ", ".join(f"{numbers[index]:.15g}" for numbers in columns)
            raise DataError(f"{origin}, line {first_line + index}: {rule}, and this has {line}")
    return columns


def _genres(files: _Files, layout: _Format) -> Genres:
    lines, origin = files.lines(layout.movies, layout.encoding)
    reader = _Counted(lines)
    try:
        return dict(layout.genres(reader))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{origin}, line {reader.line}: is no movie: {reader.last[:80]!r} ({error})") from error


def _users(files: _Files, layout: _Format) -> UserFields:
    assert layout.fields is not None
    lines, origin = files.lines(layout.users, layout.encoding)
    people: UserFields = {}
    for number, line in enumerate(lines, start=1):
        try:
            user, fields = layout.fields(line)
        except ValueError as error:
            raise DataError(f"{origin}, line {number}: is no user: {line[:80]!r} ({error})") from error
        people[user] = fields
    return people


class _Counted(Iterator[str]):
    """Lines, and how far we are: a csv row may go over several."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = iter(lines)
        self.line = 0
        self.last = ""

    def __next__(self) -> str:
        self.last = next(self._lines)
        self.line += 1
        return self.last


def _genres_100k(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    for line in lines:
        movie, *flags = (*line.split("|")[:1], *line.split("|")[5:])
        if len(flags) != len(_OLD_GENRES) or not {"0", "1"}.issuperset(flags):
            raise ValueError(f"must end with {len(_OLD_GENRES)} genres, each 0 or 1")
        yield int(movie), [genre for genre, flag in zip(_OLD_GENRES[1:], flags[1:], strict=True) if flag == "1"]


def _genres_1m(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    for line in lines:
        movie, _, genres = line.split("::")
        yield int(movie), genres.split("|")


def _genres_csv(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(lines, strict=True)
    if next(rows, None) != ["movieId", "title", "genres"]:
        raise ValueError("the first line must be movieId,title,genres")
    for movie, _, genres in rows:
        yield int(movie), [] if genres == "(no genres listed)" else genres.split("|")


def _user_100k(line: str) -> tuple[int, tuple[str, ...]]:
    user, age, gender, occupation, _ = line.split("|")
    return int(user), (str(np.digitize(int(age), _AGE_EDGES)), gender, occupation)


def _user_1m(line: str) -> tuple[int, tuple[str, ...]]:
    user, gender, age, occupation, _ = line.split("::")
    return int(user), (str(np.digitize(int(age), _AGE_EDGES)), gender, occupation)


_FORMATS = (
    _Format("u.data", b"\t", "u.item", _genres_100k, "latin-1", "u.user", _user_100k),
    _Format("ratings.dat", b"::", "movies.dat", _genres_1m, "latin-1", "users.dat", _user_1m),
    _Format("ratings.csv", b",", "movies.csv", _genres_csv, "utf-8"),
)


def _field_codes(people: Mapping[int, tuple[str, ...]], ids: Integers) -> tuple[Integers, tuple[int, ...]]:
    """One row per id and one column per field; a user without a line has 0, unknown, in all."""
    num_fields = len(next(iter(people.values()), ()))
    names = [sorted({fields[column] for fields in people.values()}) for column in range(num_fields)]
    codes = [{name: code for code, name in enumerate(known, start=1)} for known in names]
    table = np.zeros((len(ids), num_fields), np.int64)
    for row, user in enumerate(ids.tolist()):
        for column, field in enumerate(people.get(user, ())):
            table[row, column] = codes[column][field]
    return table, tuple(len(known) + 1 for known in names)


def _genre_codes(movies: Genres, ids: Integers) -> tuple[Integers, int]:
    """One row per id: codes of its genres, filled up with 0."""
    names = sorted({genre for genres in movies.values() for genre in genres})
    codes = {name: code for code, name in enumerate(names, start=1)}
    lists = [[codes[genre] for genre in movies.get(item, [])] for item in ids.tolist()]
    table = np.zeros((len(ids), max(map(len, lists))), np.int64)
    for row, genres in enumerate(lists):
        table[row, : len(genres)] = genres
    return table, len(names) + 1 if names else 0
