"""Folders that are made once and used by all: what is computed from data, kept under a key that tells which."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from adamesh.errors import DataError, DiskFull

__all__ = ["cache_root", "cached"]


def cache_root() -> Path:
    """``$XDG_CACHE_HOME/adamesh``, or else ``~/.cache/adamesh``.

    The one look below `train` at the environment: where something is kept changes nothing about what it is.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "adamesh"


def cached(root: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The folder ``root/key``, filled by ``make`` if nobody did so before.

    Whoever comes while it is being made waits for it; it has its name only once it is whole.

    Args:
        root: is created if need be.
        key: a name that tells apart all that can be in the folder.
        make: fills the empty folder that it is given.

    Raises:
        DataError: the folder cannot be written.
        DiskFull: there is no room for it.
    """
    folder = root / key
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (root / f"{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _make_whole(folder, make)
    except OSError as error:
        if DiskFull.is_behind(error):
            raise DiskFull.at(folder, "nothing was kept; XDG_CACHE_HOME says where") from error
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); "
            "set XDG_CACHE_HOME to a folder with space that can be written"
        ) from error
    return folder


def _make_whole(folder: Path, make: Callable[[Path], None]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        make(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            # Another machine, on a file system whose locks do not reach it, was faster.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
