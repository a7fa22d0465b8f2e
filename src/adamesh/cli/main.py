"""``adamesh``: finds the command, and turns what goes wrong into one line and an exit code."""

import difflib
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from adamesh.errors import AdameshError, CheckpointError, ConfigurationError, DataError, DiskFull

__all__ = ["main"]

# In the order in which a newcomer meets them; each is a module of this package with a `run(argv) -> int`.
COMMANDS = {
    "train": "Train a task, or your own model, on any number of workers.",
    "resume": "Go on with a run that was stopped, on any number of workers.",
    "join": "Add workers to a run that goes on (one that was started with --elastic).",
    "predict": "What a trained model says of new inputs.",
    "export": "Write a trained model as one safetensors file.",
    "doctor": "What is wrong with a run? Symptoms, evidence, what to try, and the command to type.",
    "find-lr": "Which learning rate? Let it rise while the model trains, and say what the loss tells.",
    "compare": "Which is better? Train with several settings and seeds; say what is more than noise.",
    "sweep": "The best of many settings: Optuna proposes, trials that fall behind are ended early.",
    "report": "One page about a run, or several side by side: curves, events, configuration, figures.",
    "watch": "The same live, in a browser or in the terminal.",
    "plan": "What will it cost, before one has the machines? Memory, bytes and time of each plan, and which to take.",
    "tasks": "List the tasks that can be trained.",
    "data": "List the data sets that tasks read, and fetch them from their publishers.",
    "check": "Is a model trained as with torch's own optimizer? With --nodes: can machines talk to each other?",
    "drill": "Rehearse failures: kill, stop, cut off and slow down workers of your own task; what is lost?",
    "bench": "Measure optimizer steps against torch's own ways to distribute them.",
}

_HELP = """\
usage: adamesh COMMAND [OPTIONS]

Trains PyTorch models with Adam on any number of workers, and answers questions about doing so.

commands:
{commands}

examples:
  adamesh train                                 real handwritten digits on two workers, about half a minute
  adamesh train regression --nproc 4            another task, four workers
  adamesh train my_task.py --optim.lr 3e-4      a model and data of your own
  adamesh train run.toml --steps 500            settings from a file, one of them changed
  adamesh resume runs/20250131-101530-digits    go on where a run stopped
  adamesh train --elastic 1:8 --nproc 4         workers may die, others may join, training goes on
  adamesh drill my_task.py                      what happens when workers die, hang, come and go?
  adamesh train --optim.rule sgd --optim.lr 0.05 --optim.momentum 0.9      another rule than AdamW
  adamesh data fetch ml-100k                    a data set, from its publisher
  adamesh predict runs/first images.npy         what does the trained model say?
  adamesh doctor runs/first                     why does it not learn, or take so long?
  adamesh find-lr my_task.py                    which learning rate?
  adamesh compare --over plan.up=exact,int8,int4 --seeds 3       does it cost anything to send less?
  adamesh sweep --search optim.lr=1e-4..1e-1:log --search plan.up=exact,int8      the best of many
  adamesh watch runs/first                      how is it going?
  adamesh plan text --world 8 --link 100mbit --device-memory 24GiB      what will it cost, and which plan fits?
  adamesh check digits --nproc 3                is it the same as with torch's AdamW?
  adamesh check --nodes --nproc 2               can the nodes of a run talk to each other?

adamesh COMMAND --help explains a command and its options; adamesh --version says what is installed.
Exit codes: 0 done, 1 the run failed, 2 the command line or the configuration is wrong.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 it failed, 2 it was asked for wrongly."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        if name in ("-h", "--help", "help"):
            commands = "\n".join(f"  {command:8} {sentence}" for command, sentence in COMMANDS.items())
            print(_HELP.format(commands=commands), end="")
            return 0
        if name in ("-V", "--version", "version"):
            print(_versions())
            return 0
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
            meant = f"did you mean {near[0]}? " if near else ""
            raise ConfigurationError(f"unknown command {name}; {meant}the commands are {', '.join(COMMANDS)}")
        code: int = importlib.import_module(f"adamesh.cli.{name.replace('-', '_')}").run(arguments)
        sys.stdout.flush()  # where it goes to a file, this is when a full disk shows
        return code
    except (ConfigurationError, DataError, CheckpointError) as error:
        return _fail(error, 2)
    except BrokenPipeError:
        # The reader, such as head, has seen enough.
        _give_up_stdout()
        return 0
    except (AdameshError, OSError) as error:
        if DiskFull.is_behind(error):
            _give_up_stdout()
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 1)
    except SystemExit as end:
        # --help of a command.
        return end.code if isinstance(end.code, int) else 0


def _give_up_stdout() -> None:
    """So that Python's own last flush does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(reason: object, code: int) -> int:
    print(f"adamesh: {reason}", file=sys.stderr)
    return code


def _versions() -> str:
    installed = {}
    for package in ("adamesh", "torch"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "(not installed, running from source)"
    python = platform.python_version()
    return f"adamesh {installed['adamesh']}, torch {installed['torch']}, Python {python}"


if __name__ == "__main__":
    sys.exit(main())
