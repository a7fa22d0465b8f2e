"""``adamesh data``: data sets, and bringing them here."""

import difflib
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.options import parse
from adamesh.data.fetch import fetch
from adamesh.data.sources import SOURCES, find_source
from adamesh.errors import ConfigurationError

__all__ = ["run"]

_HELP = """\
usage: adamesh data COMMAND [OPTIONS]

commands:
  list     The data sets that can be fetched.
  fetch    Download one: goes on where it stopped, and verifies the publisher's checksum.

examples:
  adamesh data list
  adamesh data fetch ml-100k
  adamesh data fetch wikipedia:simple --to /data

adamesh data fetch --help lists its options.
"""

_FETCH = """\
Downloads a data set from its publisher. Stopped at any point, the same command goes on where it stopped. The
file gets its name only after its checksum was found to be the published one. It is not unpacked: tasks read it
as it is. Its terms of use are shown first.
"""

_LIST = "Lists the data sets that can be fetched."


@dataclass(frozen=True)
class FetchOptions:
    """What stands on the command line."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A data set: adamesh data list shows them."""
    to: Path = Path("data")
    """The folder it comes to."""


@dataclass(frozen=True)
class ListOptions:
    """There are none."""


def run(argv: Sequence[str]) -> int:
    """Run a subcommand; returns the exit code."""
    name, *arguments = argv or ["--help"]
    if name in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if name == "list":
        parse(ListOptions, arguments, command="adamesh data list", description=_LIST)
        return _list()
    if name == "fetch":
        return _fetch(parse(FetchOptions, arguments, command="adamesh data fetch", description=_FETCH))
    near = difflib.get_close_matches(name, ["list", "fetch"], n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ConfigurationError(f"unknown command adamesh data {name}; {meant}there are list and fetch")


def _list() -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what it is", "size")
    for source in (*SOURCES, find_source("wikipedia:simple")):
        table.add_row(source.name, source.what, source.size)
    console = Console()
    console.print(table)
    console.print(
        "wikipedia: takes any language, as in wikipedia:de. Terms of use are shown before anything is fetched."
    )
    return 0


def _fetch(options: FetchOptions) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    source = find_source(options.name)
    print(f"{source.name}: {source.what} ({source.size}), from {source.page}")
    print(textwrap.fill(f"terms of use: {source.terms}", width=110, subsequent_indent="  "))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(source.name, total=None)
        path = fetch(
            source,
            options.to,
            progress=lambda here, total: bar.update(task, completed=here, total=total),
            pause=time.sleep,
        )
    print(f"{path}: whole, its checksum is the published one; use it: {source.use.format(path=path)}")
    return 0
