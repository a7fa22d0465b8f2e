"""``adamesh drill``: rehearse failures of workers on one's own task."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from adamesh.cli.options import FLAT, parse
from adamesh.cli.train import configured
from adamesh.drill.names import FAULTS, FaultName
from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run"]

_DESCRIPTION = """\
Trains a task without a fault, then once for each kind of fault, in which random workers are hit at random moments:
killed, stopped, cut off from the network, slowed down, killed in the middle of a commit or of saving; others join and
leave. Says how long it took to see it and to train again, which steps and samples were lost (by the ledger), and how
far the final parameters are from those without a fault. All options of adamesh train are taken too.

Without --steps or --epochs, runs are as long as the faults need. Exit code 1 if anything was lost.
cut makes hosts of network namespaces, which only root may on Linux, and is left out elsewhere.

examples:
  adamesh drill
  adamesh drill my_task.py --faults kill stop join --times 3
  adamesh drill run.toml --nproc 4 --steps 500 --out runs/drill
  adamesh drill --soak --minutes 10           faults of all kinds, one every 15 s: goodput, final loss
  adamesh drill --faults kill --times 20 --respawn yes --plan.up int4
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|CONFIG.toml|my_task.py")] = None
    """As for adamesh train; not set: digits."""
    faults: tuple[FaultName, ...] = FAULTS
    """Kinds of faults."""
    times: int = 1
    """How often each kind hits a run."""
    respawn: Literal["both", "yes", "no"] = "both"
    """Whether workers that are lost come again (yes), stay away (no), or one run each."""
    soak: bool = False
    """One long run with faults of all these kinds (but cut) in turn, beside the same without."""
    minutes: float = 1.0
    """soak: how long."""
    every_s: float = 15.0
    """soak: seconds from one fault to the next."""
    run: Annotated[RunConfig, FLAT] = field(default_factory=RunConfig)


def run(argv: Sequence[str]) -> int:
    """Rehearse, and print what was found; returns the exit code."""
    options, config = configured(argv, _parse)
    if options.times < 1:
        raise ConfigurationError(f"--times {options.times}: must be at least 1")
    if config.nproc < 3:
        raise ConfigurationError(
            f"nproc = {config.nproc}: a worker that is stopped is outvoted by a majority of the others, so there must "
            "be at least 3"
        )
    if "RANK" in os.environ:
        raise ConfigurationError("RANK is set: drill starts the workers itself; run it by itself, without torchrun")

    from rich.console import Console

    from adamesh.drill.rehearse import Settings, rehearse
    from adamesh.drill.table import print_drill
    from adamesh.tasks.catalog import find_task
    from adamesh.train.files import write_whole
    from adamesh.train.folder import checked, free_folder
    from adamesh.train.progress import display_for

    checked(replace(config, elastic=f"1:{config.nproc}"), config.nproc)
    name = find_task(config.task).name
    folder = (config.out or free_folder(name, datetime.now(), "drill")).resolve()
    if folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"out = {os.path.relpath(folder)}: is not empty; choose another --out")
    respawn = {"both": (True, False), "yes": (True,), "no": (False,)}[options.respawn]
    console = Console(highlight=False, markup=False, width=max(120, Console().width))
    if options.soak:
        return _soak(options, config, folder, console)
    settings = Settings(tuple(dict.fromkeys(options.faults)), options.times, respawn)
    drill = rehearse(config, settings, folder, display_for(True, console, "run"))
    write_whole(folder / "drill.json", json.dumps(asdict(drill), indent=1) + "\n")
    print_drill(console, drill)
    console.print(f"all of it in {os.path.relpath(folder)}", soft_wrap=True)
    return 0 if all(found.lost_nothing and not found.problem for found in drill.rehearsals) else 1


def _soak(options: Options, config: RunConfig, folder: Path, console: "Console") -> int:
    from adamesh.drill.soak import soak
    from adamesh.drill.table import print_soak
    from adamesh.train.files import write_whole
    from adamesh.train.progress import display_for

    faults = [fault for fault in options.faults if fault != "cut" or options.faults != FAULTS]
    display = display_for(True, console, "fault")
    found = soak(config, faults, options.minutes, options.every_s, folder, display)
    write_whole(folder / "soak.json", json.dumps(asdict(found), indent=1) + "\n")
    print_soak(console, found)
    console.print(f"all of it in {os.path.relpath(folder)}", soft_wrap=True)
    return 0 if found.rehearsal.lost_nothing and not found.rehearsal.problem else 1


def _parse(argv: Sequence[str], config: RunConfig) -> Options:
    default = Options(run=replace(config, nproc=4) if config == RunConfig() else config)
    return parse(Options, argv, command="adamesh drill", description=_DESCRIPTION, default=default)
