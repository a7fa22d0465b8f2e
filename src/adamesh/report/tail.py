"""Lines of a file that another process writes: appended to, cut, or replaced while it is read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

__all__ = ["Fresh", "Tail"]

_MOST_BYTES = 1 << 22


@dataclass(frozen=True)
class Fresh:
    """What a file has that was not read before."""

    again: bool
    """The file is another one, or shorter than it was: these lines are its first, and all before them count no more."""
    lines: list[bytes]
    """Whole ones, without their ends."""
    more: bool
    """There may be more at once."""


class Tail:
    """Reads a growing file piece by piece.

    A last line without an end is being written, or was cut short by a crash: it is read when it is whole. The file is
    kept open between reads, so that its inode cannot be another file's: a file that was replaced is always noticed.

    Args:
        path: of the file; it need not exist yet.
        most_bytes: read at once, and the length from which a line is passed over.
    """

    def __init__(self, path: Path, most_bytes: int = _MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._file: BinaryIO | None = None
        self._offset = 0
        self._in_long_line = False

    def read(self) -> Fresh:
        """The next lines.

        Raises:
            OSError: the file is there and cannot be read.
        """
        again = self._reopen()
        if self._file is None:
            return Fresh(again, [], more=False)
        self._file.seek(self._offset)
        piece = self._file.read(self._most_bytes)
        end = piece.rfind(b"\n") + 1
        full = len(piece) == self._most_bytes
        if not end and full:
            self._in_long_line = True
            self._offset += len(piece)
            return Fresh(again, [], more=True)
        self._offset += end
        lines = piece[:end].split(b"\n")[:-1]
        if self._in_long_line and lines:
            del lines[0]
            self._in_long_line = False
        return Fresh(again, lines, more=full)

    def close(self) -> None:
        """Nothing more will be read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _reopen(self) -> bool:
        """Open what is there now; returns whether it is not what was read before."""
        if self._file is not None:
            opened = os.fstat(self._file.fileno())
            if opened.st_nlink and opened.st_size >= self._offset and self._is_at_path(opened):
                return False
        had = self._file is not None
        self.close()
        self._offset, self._in_long_line = 0, False
        if self._path.is_file():
            # Unbuffered: what was cut off and written anew must not come from a buffer.
            self._file = self._path.open("rb", buffering=0)
        return had

    def _is_at_path(self, opened: os.stat_result) -> bool:
        try:
            return os.path.samestat(opened, self._path.stat())
        except FileNotFoundError:
            return False
