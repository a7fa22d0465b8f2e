"""Downloads a published file: goes on where it stopped, takes it only if its checksum is right, names it last.

    FILE                  whole and verified
    FILE.part             what has arrived; the next try goes on from there
    FILE.part.json        which version of the file that is (its ETag or date), so that no two are mixed
    FILE.rejected         whole, and not what was published

Nothing else in adamesh talks to the internet, and nothing calls this but ``adamesh data fetch``.
"""

import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from adamesh.data.sources import Listing, Published, Source
from adamesh.errors import DataError, DiskFull, DownloadError

__all__ = ["Progress", "fetch"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there, and of how many if that is known."""

_CHUNK = 1 << 18
_SILENCE_S = 60.0
_ATTEMPTS = 4
_LONGEST_LISTING = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP's codes for what may be better in a moment."""


class _Interrupted(Exception):
    """The transfer ended early; it may be taken up again."""


def fetch(source: Source, folder: Path, progress: Progress, pause: Callable[[float], None]) -> Path:
    """Bring a data set's file into a folder; returns its path.

    Args:
        source: what to fetch.
        folder: made if it is not there.
        progress: told how far it is.
        pause: waits for so many seconds before another try.

    Raises:
        DownloadError: the server does not answer, or does not have it; there is no room; another process is at it.
        DataError: the file is not the one that was published.
    """
    published = _published(source, pause)
    target = folder / published.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if _digest(target, published.algorithm) != published.digest:
                raise DataError(
                    f"{target} is there and its {published.algorithm} is not {published.digest}, as published: move it "
                    "away, or give another folder with --to"
                )
            return target
        partial = folder / f"{published.file}.part"
        with _alone_with(partial) as file:
            _download(source, published, file, progress, pause)
            _accept(source, published, partial, target)
    except OSError as error:
        raise DownloadError(_on_disk(error, folder)) from error
    return target


def _published(source: Source, pause: Callable[[float], None]) -> Published:
    if isinstance(source.origin, Published):
        return source.origin
    listing: Listing = source.origin

    def read() -> str:
        with _open(source, Request(listing.url, headers=_HEADERS)) as response:
            text: bytes = response.read(_LONGEST_LISTING)
        return text.decode("utf-8", errors="replace")

    chosen = listing.choose(_persistently(source, read, lambda: 0, pause))
    if chosen is None:
        raise DownloadError(f"{listing.url} lists no file like {listing.pattern}; look for it at {source.page}")
    return chosen


_HEADERS = {"User-Agent": "adamesh", "Accept-Encoding": "identity"}


def _download(
    source: Source, published: Published, file: IO[bytes], progress: Progress, pause: Callable[[float], None]
) -> None:
    """Until the file is whole, or nothing more arrives in several tries."""

    def arrived() -> int:
        return file.seek(0, os.SEEK_END)

    _persistently(source, lambda: _receive(source, published, file, progress), arrived, pause)
    file.flush()
    os.fsync(file.fileno())


def _persistently(
    source: Source, attempt: Callable[[], Any], arrived: Callable[[], int], pause: Callable[[float], None]
) -> Any:
    """Try again where a transfer is interrupted; give up after several tries in which nothing arrives."""
    fruitless = 0
    while True:
        before = arrived()
        try:
            return attempt()
        except _Interrupted as error:
            fruitless = 0 if arrived() > before else fruitless + 1
            if fruitless == _ATTEMPTS:
                kept = f"{arrived():,} bytes are kept, and the same command goes on from there" if arrived() else ""
                by_hand = f"is there a network? To get it by hand: {source.page}"
                raise DownloadError(f"{error}, {_ATTEMPTS} times in a row; {kept or by_hand}") from error
            pause(2.0**fruitless / 2)


def _receive(source: Source, published: Published, file: IO[bytes], progress: Progress) -> None:
    """One request for what is missing.

    Raises:
        _Interrupted: not all of it arrived.
    """
    note = Path(f"{file.name}.json")
    start = file.seek(0, os.SEEK_END)
    version = _version(note, published.url)
    headers = dict(_HEADERS)
    if start:
        headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version  # another version of the file comes from its beginning
    with _open(source, Request(published.url, headers=headers)) as response:
        total = _total(response, start)
        if response.status == 416:
            if total == start:
                return
            file.truncate(0)
            raise _Interrupted(f"{published.url} is shorter than what had arrived")
        if response.status != 206 and start:
            file.truncate(0)
            start = 0
        if start == 0:
            note.write_text(json.dumps({"url": published.url, "version": _validator(response)}), encoding="utf-8")
        _require_room(Path(file.name).parent, None if total is None else total - start)
        here = _copy(response, file, start, total, progress)
    if total is not None and here < total:
        raise _Interrupted(f"{published.url}: the connection ended after {here:,} of {total:,} bytes")


def _copy(response: Any, file: IO[bytes], here: int, total: int | None, progress: Progress) -> int:
    """Append what arrives to the file; returns how long it is then."""
    file.seek(here)
    progress(here, total)
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _Interrupted(f"{response.url}: {_reason(error)}") from error
        if not chunk:
            return here
        file.write(chunk)
        here += len(chunk)
        progress(here, total)


def _open(source: Source, request: Request) -> Any:
    """The answer to a request; 416 is one."""
    try:
        return urlopen(request, timeout=_SILENCE_S)
    except HTTPError as error:
        if error.code == 416:
            return error
        said = f"{request.full_url} answers {error.code} {error.reason}"
        error.close()
        if error.code in _PASSING:
            raise _Interrupted(said) from error
        raise DownloadError(f"{said}: it may have moved. Look for it at {source.page}") from error
    except (URLError, OSError, http.client.HTTPException) as error:
        raise _Interrupted(f"{request.full_url} cannot be reached ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return str(cause) or type(error).__name__


def _total(response: Any, start: int) -> int | None:
    """How long the whole file is, if the answer says so.

    Raises:
        _Interrupted: the answer is another part of the file than was asked for.
    """
    if response.status in (206, 416):
        match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status == 206 and (match is None or match[1] is None or int(match[1]) != start):
            raise _Interrupted(f"{response.url} answers with another part of the file than was asked for")
        return int(match[2]) if match and match[2] != "*" else None
    length = response.headers.get("Content-Length")
    return int(length) if length is not None and length.isdecimal() else None


def _validator(response: Any) -> str | None:
    """What names this version of the file: a strong ETag, or else its date."""
    tag: str | None = response.headers.get("ETag")
    date: str | None = response.headers.get("Last-Modified")
    return tag if tag and not tag.startswith("W/") else date


def _version(note: Path, url: str) -> str | None:
    """Which version the bytes that are there are of, if that is known."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(content, dict) and content.get("url") == url and isinstance(content.get("version"), str)
    return content["version"] if known else None


def _accept(source: Source, published: Published, partial: Path, target: Path) -> None:
    """Give a whole file its name, or set it aside."""
    found = _digest(partial, published.algorithm)
    Path(f"{partial}.json").unlink(missing_ok=True)
    if found != published.digest:
        rejected = target.with_name(f"{target.name}.rejected")
        os.replace(partial, rejected)
        raise DataError(
            f"{published.url}: what arrived has {published.algorithm} {found} and not {published.digest}, as "
            f"published; it is set aside as {rejected}. Try again, or see {source.page}"
        )
    os.replace(partial, target)
    descriptor = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _alone_with(partial: Path) -> Iterator[IO[bytes]]:
    """The partial file, which no other process appends to meanwhile."""
    with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"{partial} is being downloaded by another process; let it finish") from error
        with partial.open("r+b") as file:
            yield file


def _require_room(folder: Path, needed: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise DownloadError(
            f"{folder} has {free:,} bytes free and {needed:,} are still to come: make room, or give another folder "
            "with --to"
        )


def _on_disk(error: OSError, folder: Path) -> str:
    if DiskFull.is_behind(error):
        return f"{folder} is full: make room, and the same command goes on where it stopped"
    return f"{folder} cannot be written ({error.strerror or error}): give another folder with --to"


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
