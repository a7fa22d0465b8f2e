"""``adamesh compare``: which of several settings is the better one?"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro

from adamesh.cli.options import FLAT, parse
from adamesh.cli.train import configured
from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig

__all__ = ["run"]

_DESCRIPTION = """\
Trains a task with several settings and seeds, each with the same budget, and says how they compare: mean test loss
with its interval over seeds, seconds, bytes; which differences are more than noise; a table, compare.json and a plot.
The first value of each --over is what the others are compared with.

The same command with the same --out goes on where it stopped. All options of adamesh train are taken too.

examples:
  adamesh compare --over plan.up=exact,int8,int4 --seeds 3
  adamesh compare digits --optim adam:3e-3,sgd:0.1,adadelta             each with a learning rate that suits it
  adamesh compare digits --optim adam,sgd --over optim.lr=1e-2,1e-1      which one does?
  adamesh compare --over plan.sync=every-step,every-16,diloco-64
  adamesh compare --over nproc=1,2,4 --steps 200
  adamesh compare mlp --over batch_size=32,128 --budget-s 20 --out runs/batches
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|CONFIG.toml|my_task.py")] = None
    """As for adamesh train; not set: digits."""
    over: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE,VALUE,...: a key of the configuration and what it is set to in turn; none: not set; 0.9/0.99: a pair.
    KEY:KEY=VALUE:VALUE,...: keys that change together. Given several times: all combinations."""
    optim: str | None = None
    """RULE,RULE,... or RULE:LR,...: short for --over optim.rule=RULE,... or --over optim.rule:optim.lr=RULE:LR,..."""
    seeds: int = 3
    """How many seeds each is trained with: --seed and those after it."""
    budget_s: float | None = None
    """Seconds in steps that each trial gets; not set: the samples that --steps or --epochs come to."""
    jobs: int | None = None
    """Trials at once; not set: as many as there are cores for, and one with --budget-s."""
    run: Annotated[RunConfig, FLAT] = field(default_factory=RunConfig)


def run(argv: Sequence[str]) -> int:
    """Compare, and print what was found; returns the exit code."""
    options, config = configured(argv, _parse)
    for name, value in (("--seeds", options.seeds), ("--jobs", options.jobs)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} {value}: must be at least 1")
    if "RANK" in os.environ:
        raise ConfigurationError(
            "RANK is set: compare starts the workers of its trials itself; run it by itself, without torchrun"
        )

    from rich.console import Console

    from adamesh.tasks.catalog import find_task
    from adamesh.train.folder import free_folder
    from adamesh.train.progress import display_for
    from adamesh.tune.arms import Budget, make_arms, make_trials, read_overs
    from adamesh.tune.compare import compare
    from adamesh.tune.plot import plot
    from adamesh.tune.record import write_record
    from adamesh.tune.running import cores, jobs_at_once
    from adamesh.tune.table import print_comparison

    arms = make_arms(config, read_overs(options.over, options.optim), Budget(options.budget_s))
    folder = (config.out or free_folder(find_task(config.task).name, datetime.now(), "compare")).resolve()
    if (folder / "config.toml").exists():
        raise ConfigurationError(f"out = {folder}: holds a run; choose another --out")
    trials = make_trials(arms, options.seeds, folder)
    most_workers = max(arm.config.nproc for arm in arms)
    jobs = options.jobs or jobs_at_once(most_workers, cores(), timed=options.budget_s is not None)
    console = Console(highlight=False, markup=False)
    try:
        results = compare(arms, trials, jobs, display_for(True, console, "trial"))
    except KeyboardInterrupt:
        from adamesh.cli.following import say

        say(f"interrupted; finished trials are kept: the same command with --out {_shown(folder)} goes on")
        return 1
    first = arms[0].config
    write_record(results, first, folder / "compare.json")
    print_comparison(console, results, first)
    title = f"{find_task(config.task).name}: {len(arms)} arms, {options.seeds} seeds"
    console.print(plot(results, title, folder / "compare.png"), soft_wrap=True)
    console.print(f"all of it in {_shown(folder)}", soft_wrap=True)
    return 0 if any(result.finished for result in results) else 1


def _parse(argv: Sequence[str], config: RunConfig) -> Options:
    default = Options(run=config)
    return parse(Options, argv, command="adamesh compare", description=_DESCRIPTION, default=default)


def _shown(folder: Path) -> str:
    return os.path.relpath(folder)
