"""``adamesh export``: the model alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from adamesh.cli.options import parse

__all__ = ["run"]

_DESCRIPTION = """\
Writes a run's model as one safetensors file: parameters and buffers under their own names, no optimizer state.
safetensors.torch.load_file reads it.

examples:
  adamesh export runs/20250131-101530-digits
  adamesh export runs/first --checkpoint latest --out model.safetensors
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    out: Path | None = None
    """The file; not set: model.safetensors in the run's folder."""
    checkpoint: Literal["best", "latest"] = "best"
    """That of the best evaluation, or the latest."""


def run(argv: Sequence[str]) -> int:
    """Write the file; returns the exit code."""
    options = parse(Options, argv, command="adamesh export", description=_DESCRIPTION)
    from adamesh.train.trained import Trained, export

    trained = Trained(options.folder, options.checkpoint)
    file = options.out or options.folder / "model.safetensors"
    size = export(trained, file)
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in trained.evaluation.items())
    print(f"{file}: {trained.task.name} after step {trained.step:,}, {size:,} bytes; test {metrics}")
    return 0
