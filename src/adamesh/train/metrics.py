"""metrics.jsonl: a line per step and per evaluation, whole at any time, and cut where a resumed run goes on."""

import json
from collections.abc import Mapping
from io import FileIO
from pathlib import Path

from adamesh.train.files import append_whole, json_line, write_whole

__all__ = ["MetricsFile", "cut_after"]


class MetricsFile:
    """Appends records to the run's curve; used on the first worker only.

    Args:
        path: the file; lines after ``last_step`` are cut off first.
        last_step: the step of the checkpoint that the run starts from, 0 for a new run.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        cut_after(path, last_step)
        self._file = FileIO(path, "a")

    def write(self, record: Mapping[str, object]) -> None:
        """Append a line; it must have a ``step``.

        Raises:
            DiskFull: the lines before are still there.
        """
        assert "step" in record
        append_whole(self._file, json_line(record))

    def close(self) -> None:
        self._file.close()


def cut_after(path: Path, last_step: int) -> None:
    """Drop the lines of steps after ``last_step``, and a last line that a crash cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_whole(path, "".join(f"{line}\n" for line in kept))
