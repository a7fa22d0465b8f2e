"""``adamesh predict``: what a trained model says of new inputs."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from adamesh.cli.options import parse
from adamesh.errors import ConfigurationError

__all__ = ["run"]

_DESCRIPTION = """\
Predicts with a run's model, on the CPU: a line of JSON for each input. What INPUT is depends on the task:

digits, mlp: a .npy file of images, uint8 [n, 8, 8].
regression, binary, binary-mse: text or CSV, 8 numbers a line, or 2.
cifar10-..., imagenet-...: a photograph, or a folder of them.
movielens-...: text or CSV, a user id and an item id a line.
text: the beginning of a text a line; the likeliest next tokens.
wikipedia-bert: a text with [MASK] in it a line; the likeliest tokens for each.

examples:
  adamesh predict runs/20250131-101530-digits images.npy
  adamesh predict runs/first features.csv --out predictions.jsonl
  adamesh predict runs/bert questions.txt
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """A file of inputs, as the task reads them."""
    out: Path | None = None
    """File for the predictions; not set: the terminal."""
    checkpoint: Literal["best", "latest"] = "best"
    """That of the best evaluation, or the latest."""


def run(argv: Sequence[str]) -> int:
    """Predict; returns the exit code."""
    options = parse(Options, argv, command="adamesh predict", description=_DESCRIPTION)
    from adamesh.train.files import write_whole
    from adamesh.train.trained import Trained, predictions

    records = predictions(Trained(options.folder, options.checkpoint), options.input)
    text = "".join(json.dumps(record) + "\n" for record in records)
    if options.out is None:
        sys.stdout.write(text)
        return 0
    try:
        write_whole(options.out, text)
    except OSError as error:
        raise ConfigurationError(
            f"{options.out}: cannot be written ({error.strerror}); choose another --out"
        ) from error
    print(f"{options.out}: {len(records):,} predictions")
    return 0
