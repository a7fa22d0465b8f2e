"""``adamesh report``: one page about one run or several."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.options import parse
from adamesh.errors import ConfigurationError

__all__ = ["run"]

_DESCRIPTION = """\
Writes one HTML page about a run, or about several side by side: figures, a diagnosis, curves, communication, memory,
events, configuration. The page has all of it inside and loads nothing from anywhere: it can be kept, sent, opened
without a network.

A folder of a comparison or a sweep stands for its trials. A run that goes on, or has failed, is shown as far as it is.

examples:
  adamesh report runs/20250131-101530-digits
  adamesh report runs/first runs/second --out both.html
  adamesh report runs/20250131-101530-compare-digits
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Folders of runs."""
    out: Path | None = None
    """The file; not set: report.html in the first folder."""


def run(argv: Sequence[str]) -> int:
    """Write the page; returns the exit code."""
    options = parse(Options, argv, command="adamesh report", description=_DESCRIPTION)
    if not options.folders:
        raise ConfigurationError("RUN...: is missing; give the folder of a run, or of several")
    from datetime import datetime

    from adamesh.report.diagnosis import diagnosis
    from adamesh.report.folders import run_folders
    from adamesh.report.history import History
    from adamesh.report.page import page
    from adamesh.train.files import write_whole

    histories = [History(folder, name) for name, folder in run_folders(options.folders).items()]
    for history in histories:
        history.refresh()
        history.close()
    file = options.out or options.folders[0] / "report.html"
    text = page(histories, datetime.now(), diagnoses=[diagnosis(history.folder) for history in histories])
    try:
        write_whole(file, text)
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be written ({error.strerror}); choose another --out") from error
    runs = "1 run" if len(histories) == 1 else f"{len(histories)} runs"
    print(f"{os.path.relpath(file)}: {runs}, {len(text.encode()) / 1000:,.0f} kB; open it in a browser")
    return 0
