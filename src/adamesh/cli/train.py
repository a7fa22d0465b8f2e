"""``adamesh train``: begin a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import tyro

from adamesh.cli.machines import Machines
from adamesh.cli.options import FLAT, is_given, parse
from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig

__all__ = ["configuration", "configured", "run"]

_DESCRIPTION = """\
Trains a task on any number of workers and leaves the run in a folder: configuration, metrics, checkpoints,
summary. Without a task: real handwritten digits that ship with adamesh, on two workers.

Under torchrun, Slurm or Ray (RANK and WORLD_SIZE are set) no workers are started and --nproc is not needed.
Ctrl-C finishes the step, saves and ends; adamesh resume goes on.

examples:
  adamesh train
  adamesh train regression --nproc 4 --epochs 5 --optim.lr 1e-2
  adamesh train wikipedia-bert:mini --data enwiki-latest-pages-articles.xml.bz2
  adamesh train my_task.py --data data.bin --out runs/first
  adamesh train run.toml --steps 500 --plan.max-grad-norm 1.0
  torchrun --nproc-per-node 4 --no-python adamesh train
  adamesh train --elastic 1:8 --nproc 4      workers may die, and others may join (adamesh join RUN)
"""


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    what: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|CONFIG.toml|my_task.py")] = None
    """A task (adamesh tasks lists them; TASK:SIZE where its model has sizes), a configuration file whose settings
    become the defaults of the options below, or a Python file with a task of your own."""
    run: Annotated[RunConfig, FLAT] = field(default_factory=RunConfig)
    machines: Annotated[Machines, FLAT] = field(default_factory=Machines)


class _HasRun(Protocol):
    @property
    def what(self) -> str | None: ...
    @property
    def run(self) -> RunConfig: ...


OptionsT = TypeVar("OptionsT", bound=_HasRun)


def run(argv: Sequence[str]) -> int:
    """Begin a run and follow it to its end; returns the exit code."""
    options, config = configured(argv, _parse)
    machines = options.machines
    machines.check(config.elastic, config.out)
    # From here on torch is needed, and takes its time to load.
    from adamesh.cli.following import begin, follow
    from adamesh.train.supervise import Founding

    if machines.node_rank:
        assert config.out is not None
        folder, size = machines.await_folder(config.out.resolve()), config.nproc
    else:
        folder, size = begin(config)
    if config.elastic is None:
        return follow("adamesh.train.worker", [str(folder)], folder, size, saves=True)
    founding = Founding.on(machines.address, machines.node_rank, machines.nnodes, config.nproc)
    founding = replace(founding, respawn=machines.respawn)
    return follow("adamesh.train.worker", [str(folder)], folder, config.nproc, saves=True, founding=founding)


def configuration(argv: Sequence[str]) -> RunConfig:
    """What the arguments say, over what the configuration file says, if one is named."""
    return configured(argv, _parse)[1]


def configured(argv: Sequence[str], read: Callable[[Sequence[str], RunConfig], OptionsT]) -> tuple[OptionsT, RunConfig]:
    """The options of a command that takes what `adamesh train` takes, and the configuration that they make.

    Args:
        argv: the command line.
        read: makes options of it, with the defaults of a configuration.
    """
    from adamesh.train.config import load_config

    try:
        options = read(argv, RunConfig())
    except ConfigurationError:
        # What does not fit the defaults may fit what a file says.
        files = [word for word in argv if word.endswith(".toml") and Path(word).is_file()]
        if len(files) != 1:
            raise
        options = read(argv, _without_rival(load_config(Path(files[0])), argv))
        if options.what != files[0]:  # it is some option's value
            raise
        return options, options.run
    what, config = options.what, options.run
    if what is None:
        return options, config
    if not what.endswith(".toml"):
        if is_given(argv, "--task"):
            raise ConfigurationError(f"two tasks are named: {what} and --task {config.task}; keep one")
        if Path(what).is_dir():
            raise ConfigurationError(f"{what}: is a folder; to go on with a run in it: adamesh resume {what}")
        return options, replace(config, task=what)
    options = read(argv, _without_rival(load_config(Path(what)), argv))
    return options, options.run


def _parse(argv: Sequence[str], config: RunConfig) -> Options:
    default = Options(run=config)
    return parse(Options, argv, command="adamesh train", description=_DESCRIPTION, default=default)


def _without_rival(config: RunConfig, argv: Sequence[str]) -> RunConfig:
    """``--epochs`` on the command line overrides ``steps`` in the file, and the other way round."""
    if is_given(argv, "--steps"):
        config = replace(config, epochs=None)
    if is_given(argv, "--epochs"):
        config = replace(config, steps=None)
    return config
