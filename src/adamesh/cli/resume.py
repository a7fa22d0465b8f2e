"""``adamesh resume``: go on with a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.options import parse

__all__ = ["run"]

_DESCRIPTION = """\
Goes on with a run from its newest checkpoint, on any number of workers: the trajectory is the same up to the
order of sums. Works after Ctrl-C, after a crash, and, with --steps, after a run that was finished.

examples:
  adamesh resume runs/20250131-101530-digits
  adamesh resume runs/first --nproc 3
  adamesh resume runs/first --steps 1000
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """The run's folder."""
    nproc: int | None = None
    """Workers to start on this machine; not set: as many as before."""
    steps: int | None = None
    """The step to train to, counted from the run's beginning; not set: as the run was begun with."""


def run(argv: Sequence[str]) -> int:
    """Go on with a run and follow it to its end; returns the exit code."""
    options = parse(Options, argv, command="adamesh resume", description=_DESCRIPTION)
    from adamesh.cli.following import follow, one_folder
    from adamesh.train import existing
    from adamesh.train.config import load_config
    from adamesh.train.folder import reopen_run
    from adamesh.train.supervise import Founding

    size = existing.world_size() if existing.is_present() else options.nproc
    folder = one_folder(lambda: reopen_run(options.folder, size, options.steps))
    config = load_config(folder / "config.toml")
    founding = None if config.elastic is None else Founding.here(config.nproc)
    arguments = [str(folder), "--resume"]
    return follow("adamesh.train.worker", arguments, folder, config.nproc, saves=True, founding=founding)
