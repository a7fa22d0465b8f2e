"""``adamesh tasks``: what can be trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from adamesh.cli.options import parse

__all__ = ["run"]

_DESCRIPTION = """\
Lists the tasks that adamesh train knows by name, with their defaults. A task of your own is a Python file
with a subclass of adamesh.tasks.base.Task: adamesh train my_task.py.
"""


@dataclass(frozen=True)
class Options:
    """There are none."""


def run(argv: Sequence[str]) -> int:
    """Print the table; returns the exit code."""
    parse(Options, argv, command="adamesh tasks", description=_DESCRIPTION)
    from rich.console import Console
    from rich.table import Table

    from adamesh.tasks.catalog import find_task, task_names

    table = Table("task", "what it is", "length", "batch", "lr")
    for name in task_names():
        task = find_task(name)
        defaults = task.defaults
        length = f"{defaults.epochs} epochs" if defaults.steps is None else f"{defaults.steps} steps"
        sizes = f"; sizes: {', '.join(task.sizes)}" if task.sizes else ""
        table.add_row(name, f"{task.summary}{sizes}", length, str(defaults.batch_size), f"{defaults.lr:g}")
    Console().print(table)
    return 0
