"""The commands that advice ends in: the same run again, with something changed."""

import os
import shlex

from adamesh.doctor.record import Record

__all__ = ["again", "compared", "resumed"]


def again(record: Record, *options: str) -> str | None:
    """Train anew with the run's settings and these options; None where its settings are not known."""
    return _with_config(record, "train", options, "again")


def compared(record: Record, *options: str) -> str | None:
    """Compare several settings, all else as in the run."""
    return _with_config(record, "compare", options, "compared")


def resumed(record: Record, *options: str) -> str:
    """Go on from the newest checkpoint."""
    return shlex.join(["adamesh", "resume", os.path.relpath(record.folder), *options])


def _with_config(record: Record, command: str, options: tuple[str, ...], suffix: str) -> str | None:
    if record.config is None:
        return None
    folder = os.path.relpath(record.folder)
    return shlex.join(["adamesh", command, f"{folder}/config.toml", *options, "--out", f"{folder}-{suffix}"])
