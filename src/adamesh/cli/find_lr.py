"""``adamesh find-lr``: which learning rate?"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.next_command import train_command
from adamesh.cli.options import FLAT, is_given, parse
from adamesh.cli.train import configured
from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig

__all__ = ["run"]

_DESCRIPTION = """\
Lets the learning rate rise, from so small that nothing happens until training breaks down, and reads a rate off the
loss: the middle, in ratio, of that at the lowest loss and a tenth of that at which half of what was learnt is lost
again. Says "unsure", and why, where the loss does not tell: if it falls no further than noise does, if nothing is
learnt of the inputs, if seeds do not agree.

It trains a model of its own, as adamesh train would, in all workers, and touches no run. Some 150 steps a seed.
All options of adamesh train are taken too; what is suggested is for the rule, batch size and precision given here.

examples:
  adamesh find-lr
  adamesh find-lr my_task.py --data data.bin --batch-size 256 --nproc 4
  adamesh find-lr cifar10-cnn --seeds 3
  adamesh find-lr run.toml --optim.rule sgd --optim.momentum 0.9
"""

_OWN = ("--lowest", "--highest", "--steps-per-decade", "--seeds", "--out")


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|CONFIG.toml|my_task.py")] = None
    """As for adamesh train; not set: digits."""
    lowest: float | None = None
    """The rate to begin with; not set: a hundredth of torch's default for the rule."""
    highest: float | None = None
    """The rate to end with at the latest; not set: a hundred thousand times torch's default."""
    steps_per_decade: int = 30
    """Steps in which the rate becomes ten times as high. More is slower, and closer to a whole run."""
    seeds: int = 1
    """How many seeds: --seed and those after it; their median is judged, and whether they agree."""
    run: Annotated[RunConfig, FLAT] = field(default_factory=RunConfig)


def run(argv: Sequence[str]) -> int:
    """Search, and print what was found; returns the exit code."""
    options, config = configured(argv, _parse)
    if is_given(argv, "--optim.lr"):
        raise ConfigurationError("--optim.lr: is what is to be found; give --lowest and --highest to bound it")
    if not is_given(argv, "--out"):
        config = replace(config, out=None)  # a configuration file's is another run's

    from adamesh.tune.rate.search import Search

    search = Search.of(config, options.lowest, options.highest, options.steps_per_decade, options.seeds)
    config = search.configured(config)

    from adamesh.cli.following import begin, follow, speaks

    folder, size = begin(config, "find-lr")
    arguments = [str(folder), repr(search.highest), str(search.num_seeds)]
    code = follow("adamesh.tune.rate.climb", arguments, folder, size, saves=False)
    if code or not speaks():
        return code
    return _report(argv, folder, size)


def _report(argv: Sequence[str], folder: Path, size: int) -> int:
    from rich.console import Console

    from adamesh.train.config import load_config
    from adamesh.tune.rate.climb import CURVES, read_curves
    from adamesh.tune.rate.report import plot, print_verdict, write_record
    from adamesh.tune.rate.verdict import judge

    if not (folder / CURVES).exists():  # stopped
        return 1
    config = load_config(folder / "config.toml")
    curves = read_curves(folder)
    verdict = judge(curves)
    command = None if verdict.rate is None else train_command(argv, _OWN, {"optim.lr": f"{verdict.rate:g}"})
    asked = {
        "task": config.task,
        "rule": config.optim.rule,
        "batch_size": config.batch_size,
        "world_size": size,
        "command": command,
    }
    write_record(verdict, curves, asked, folder / "find-lr.json")
    console = Console(highlight=False, markup=False)
    print_verdict(console, verdict)
    title = f"{config.task}, {config.optim.rule}, batch {config.batch_size}"
    console.print(plot(verdict, curves, title, folder / "find-lr.png"), soft_wrap=True)
    console.print(f"all of it in {os.path.relpath(folder)}", soft_wrap=True)
    if command is not None:
        console.print(f"next: {command}", soft_wrap=True)
    return 0


def _parse(argv: Sequence[str], config: RunConfig) -> Options:
    default = Options(run=config)
    return parse(Options, argv, command="adamesh find-lr", description=_DESCRIPTION, default=default)
