"""The commands that advice ends in: the same run again, with something changed."""

import os
import shlex
from pathlib import Path

from adamesh.doctor.record import Record

__all__ = ["again", "compared", "resumed", "shown"]


def again(record: Record, *options: str) -> str | None:
    """Train anew with the run's settings and these options; None where its settings are not known."""
    return _with_config(record, "train", options, "again")


def compared(record: Record, *options: str) -> str | None:
    """Compare several settings, all else as in the run."""
    return _with_config(record, "compare", options, "compared")


def resumed(record: Record, *options: str) -> str:
    """Go on from the newest checkpoint."""
    return shlex.join(["adamesh", "resume", shown(record.folder), *options])


def _with_config(record: Record, command: str, options: tuple[str, ...], suffix: str) -> str | None:
    if record.config is None:
        return None
    folder = shown(record.folder)
    return shlex.join(["adamesh", command, f"{folder}/config.toml", *options, "--out", f"{folder}-{suffix}"])


def shown(path: Path) -> str:
    """As it may be typed here: from this folder or from the root, whichever is shorter."""
    return min(os.path.relpath(path), str(path.absolute()), key=len)
