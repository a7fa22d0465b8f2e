"""``adamesh doctor``: what is wrong with a run?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.options import parse

__all__ = ["run"]

_DESCRIPTION = """\
Reads what a run has written down and says what it suffers from, with the figures that show it, what to try, and the
command to type: divergence, exploding or vanishing gradients, NaN batches, dead units, a wrong loss scale, a loss that
does not move, time lost in communication, one slow worker, a slow loader, skipped steps, rollbacks. Or: healthy.

The run may still be going on, have failed, or have been killed; nothing in its folder is changed.

examples:
  adamesh doctor runs/20250131-101530-digits
  adamesh doctor runs/first --json
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    json: bool = False
    """Print JSON in place of text."""


def run(argv: Sequence[str]) -> int:
    """Print a diagnosis; returns the exit code, which is 0 whatever was found."""
    options = parse(Options, argv, command="adamesh doctor", description=_DESCRIPTION)

    from rich.console import Console

    from adamesh.doctor.examination import diagnose
    from adamesh.doctor.record import read_record
    from adamesh.doctor.told import print_diagnosis, to_json

    record = read_record(options.folder)
    diagnosis = diagnose(record)
    if options.json:
        from adamesh.train.files import json_line

        print(json_line(to_json(record, diagnosis)))
    else:
        print_diagnosis(Console(highlight=False, markup=False), record, diagnosis)
    return 0
