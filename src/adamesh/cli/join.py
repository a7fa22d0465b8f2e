"""``adamesh join``: add workers to a run that goes on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.options import parse
from adamesh.errors import ConfigurationError

__all__ = ["run"]

_DESCRIPTION = """\
Adds workers to a run that goes on and was started with --elastic. They take part from the next step on, in the
same global batches; the run ends on whatever machines are left. Ctrl-C ends the whole run, SIGTERM to a worker's
process lets that one go.

examples:
  adamesh join runs/20250131-101530-digits
  adamesh join /shared/runs/first --nproc 4
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, on a disk that this machine sees."""
    nproc: int = 1
    """Workers to add on this machine."""


def run(argv: Sequence[str]) -> int:
    """Add workers to a run and follow them to its end; returns the exit code."""
    options = parse(Options, argv, command="adamesh join", description=_DESCRIPTION)
    from adamesh.cli.following import follow
    from adamesh.company.members import read_members
    from adamesh.train.config import load_config
    from adamesh.train.supervise import Founding

    folder, shown = options.folder.resolve(), os.path.relpath(options.folder)
    if options.nproc < 1:
        raise ConfigurationError(f"--nproc {options.nproc}: must be at least 1")
    if not (folder / "config.toml").is_file():
        raise ConfigurationError(f"{shown}: holds no run (no config.toml); give the folder of one")
    config = load_config(folder / "config.toml")
    if config.elastic is None:
        raise ConfigurationError(
            f"{shown}: this run's workers stay the same; start it with --elastic MIN:MAX to let others join"
        )
    if read_members(folder) is None:
        raise ConfigurationError(f"{shown}: no worker of the run is there to join; go on with: adamesh resume {shown}")
    founding = replace(Founding.here(options.nproc), size=0)
    return follow("adamesh.train.worker", [str(folder)], folder, options.nproc, saves=True, founding=founding)
