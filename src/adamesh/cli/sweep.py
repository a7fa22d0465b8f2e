"""``adamesh sweep``: which of very many settings is the best?"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from adamesh.cli.next_command import train_command
from adamesh.cli.options import FLAT, is_given, parse
from adamesh.cli.train import configured
from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig

if TYPE_CHECKING:
    from rich.console import Console

    from adamesh.tune.sweep.study import StudyBook
    from adamesh.tune.sweep.sweep import Proposer

__all__ = ["run"]

_DESCRIPTION = """\
Searches for the best values of any keys of the configuration. Optuna proposes them; each trial is a run of its own,
with the same budget in samples; trials that fall behind the others are ended early. What is best is judged by
--best-metric (the test loss) after the last step.

The same command with the same --out goes on where it stopped, or was killed. All options of adamesh train are taken
too. Needs pip install 'adamesh[sweep]'.

  KEY=LOW..HIGH          numbers in between; whole ones where the key takes whole ones
  KEY=LOW..HIGH:log      the same, evenly in their logarithm
  KEY=LOW..HIGH:near1    evenly in the logarithm of the distance to 1: for decay rates
  KEY=VALUE,VALUE,...    one of these; none: not set
  KEY=RANGE/RANGE        for a pair, such as optim.betas

examples:
  adamesh sweep --search optim.lr=1e-4..1e-1:log
  adamesh sweep --search optim.lr=1e-4..1e-1:log --search optim.betas=0.5..0.98:near1/0.9..0.9999:near1 --trials 40
  adamesh sweep my_task.py --search plan.up=exact,int8 --search batch_size=32,64,128 --out runs/search
  adamesh sweep cifar10-cnn --search optim.weight_decay=1e-4..1:log --pruner hyperband --epochs 9
"""

_OWN = ("--search", "--trials", "--sampler", "--pruner", "--jobs", "--out")


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|CONFIG.toml|my_task.py")] = None
    """As for adamesh train; not set: digits."""
    search: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A key of the configuration and where it is searched, as above. Given several times: all of them together."""
    trials: int = 20
    """How many, those of earlier starts of this sweep included."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Who proposes. tpe: looks where it was good before, after ten at random; random: all of them."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """Which trials are ended early. median: those worse than half of the others after as many evaluations; hyperband:
    most of them after few evaluations, and ever fewer."""
    jobs: int | None = None
    """Trials at once; not set: as many as there are cores for."""
    run: Annotated[RunConfig, FLAT] = field(default_factory=RunConfig)


def run(argv: Sequence[str]) -> int:
    """Search, and print what was found; returns the exit code."""
    options, config = configured(argv, _parse)
    for name, value in (("--trials", options.trials), ("--jobs", options.jobs)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} {value}: must be at least 1")
    if "RANK" in os.environ:
        raise ConfigurationError(
            "RANK is set: sweep starts the workers of its trials itself; run it by itself, without torchrun"
        )

    from rich.console import Console

    from adamesh.tasks.catalog import find_task
    from adamesh.train.best import is_better_high
    from adamesh.train.config import config_hash
    from adamesh.train.folder import checked, free_folder
    from adamesh.train.progress import display_for
    from adamesh.tune.running import cores, jobs_at_once
    from adamesh.tune.sweep.space import read_searches
    from adamesh.tune.sweep.study import StudyBook
    from adamesh.tune.sweep.sweep import Proposer, alone_in, sweep

    dimensions = read_searches(options.search)
    given = config.out if is_given(argv, "--out") else None  # a configuration file's is another run's
    folder = (given or free_folder(find_task(config.task).name, datetime.now(), "sweep")).resolve()
    if (folder / "config.toml").exists():
        raise ConfigurationError(f"out = {folder}: holds a run; choose another --out")
    config = replace(config, out=None)
    base = checked(config, config.nproc)
    proposer = Proposer(config, base, dimensions, folder)
    most_workers = max(arm.config.nproc for arm in proposer.corners())
    jobs = options.jobs or jobs_at_once(most_workers, cores(), timed=False)
    console = Console(highlight=False, markup=False)
    with alone_in(folder):
        book = StudyBook(
            folder,
            dimensions,
            {"config_hash": config_hash(base), "nproc": base.nproc, "searched": [asdict(d) for d in dimensions]},
            highest=is_better_high(config.best_metric, config.best_is),
            seed=config.seed,
            sampler=options.sampler,
            pruner=options.pruner,
        )
        try:
            sweep(book, proposer, options.trials, jobs, display_for(True, console, "trial"))
        except KeyboardInterrupt:
            from adamesh.cli.following import say

            say(f"interrupted; trials are kept: the same command with --out {os.path.relpath(folder)} goes on")
            return 1
        return _report(argv, book, proposer, console)


def _report(argv: Sequence[str], book: "StudyBook", proposer: "Proposer", console: "Console") -> int:
    from adamesh.tune.sweep.report import plots, print_sweep, ranked, write_record

    best = ranked(book)
    command = None
    if best:
        found = dict(dimension.setting(best[0].params) for dimension in proposer.dimensions)
        command = train_command(argv, _OWN, found)
    write_record(book, proposer, command, proposer.folder / "sweep.json")
    print_sweep(console, book, proposer)
    names = [name for dimension in proposer.dimensions for name in dimension.names()]
    for line in plots(book, names, proposer.folder):
        console.print(line, soft_wrap=True)
    console.print(f"all of it in {os.path.relpath(proposer.folder)}", soft_wrap=True)
    if command is None:
        return 1
    console.print(f"the best of them again: {command}", soft_wrap=True)
    console.print(
        "The best of many is partly luck: adamesh compare, with other seeds, tells whether it is better than what you "
        "had.",
        soft_wrap=True,
    )
    return 0


def _parse(argv: Sequence[str], config: RunConfig) -> Options:
    default = Options(run=config)
    return parse(Options, argv, command="adamesh sweep", description=_DESCRIPTION, default=default)
