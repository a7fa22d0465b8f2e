"""``adamesh check``: is it the same as with torch? And with ``--nodes``: can the machines talk to each other?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from adamesh.cli.check_nodes import NodesOptions, run_nodes
from adamesh.cli.options import FLAT, parse
from adamesh.errors import ConfigurationError
from adamesh.train.rules import RULES
from adamesh.train.settings import OptimSettings, PlanSettings, RunConfig

if TYPE_CHECKING:
    from adamesh.train.comparison import CheckReport

__all__ = ["run"]

_DESCRIPTION = """\
Trains a task's model for some steps on several workers, and repeats it with torch's own optimizer in one process
on the mean of the workers' gradients. Shows how far parameters and gradients are apart, next to what rounding
alone does to torch's own run, and whether all workers hold the same bits. Exit code 1 if not.

The learning rate is constant and the precision that of the model.

With --nodes it trains nothing, and shows whether the machines of a run can talk to each other: names, interfaces,
ports, clocks, versions, and speed and latency between all pairs, one at a time. Run it on each machine, with the
rendezvous that the run will have (--nnodes, --node-rank, --rdzv-endpoint, or under torchrun or Slurm). What is wrong
is named, with what to do; a node that does not come, after --wait-s seconds; a pair that cannot talk, after 20. Exit
code 1 if a run would fail.

examples:
  adamesh check
  adamesh check digits --nproc 3
  adamesh check digits --optim.rule nadam
  adamesh check my_task.py --steps 50 --plan.max-grad-norm 1.0
  adamesh check --nodes --nnodes 2 --node-rank 0 --rdzv-endpoint host0:29400      on host0; with 1 on host1
  srun adamesh check --nodes                    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set
  adamesh check --nodes --nproc 3               a rehearsal on this machine
"""

_LEGEND = """\
value, gradient: the largest difference from torch's own, on any worker
tolerance: ten times what noise in the last place does to torch's own run
copies: whether all workers hold the same bits
"""

_MOST_ROWS = 30


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK|my_task.py")] = "digits"
    """A task (adamesh tasks lists them), or a Python file with a task of your own."""
    nproc: int = 2
    """Workers to start on this machine."""
    steps: int = 20
    """Steps to compare."""
    seed: int = 0
    """Determines initial parameters, the order of samples and everything random."""
    data: Path | None = None
    """The task's data; not set: data that ships with adamesh, or is generated."""
    batch_size: int | None = None
    """Samples per step over all workers together; not set: the task's."""
    out: Path | None = None
    """Folder for the report and the workers' logs; not set: runs/<time>-check-<task>."""
    optim: OptimSettings = field(default_factory=OptimSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    machines: Annotated[NodesOptions, FLAT] = field(default_factory=NodesOptions)


def run(argv: Sequence[str]) -> int:
    """Compare, and print what was found; returns the exit code."""
    options = parse(Options, argv, command="adamesh check", description=_DESCRIPTION)
    if options.machines.nodes:
        return run_nodes(options.machines, options.nproc, options.out)
    if options.machines != NodesOptions():
        raise ConfigurationError(
            "--nnodes, --node-rank, --rdzv-endpoint, --wait-s and --json are for check --nodes: add --nodes"
        )
    config = RunConfig(
        task=options.what,
        nproc=options.nproc,
        steps=options.steps,
        seed=options.seed,
        data=options.data,
        batch_size=options.batch_size,
        out=options.out,
        optim=options.optim,
        plan=options.plan,
    )
    if not options.plan.schedule.is_every_step:
        raise ConfigurationError(
            f"plan.sync = {options.plan.sync!r}: this schedule takes other steps than torch's optimizer on the "
            "whole batch, so there is nothing to compare them with; leave it out, the rest of the plan can be "
            "checked"
        )
    if not RULES[options.optim.rule].in_torch:
        raise ConfigurationError(
            f"optim.rule = {options.optim.rule!r}: torch has no such optimizer to compare with; until its second "
            "moments are frozen it is adamw, so check that: adamesh check --optim.rule adamw"
        )
    from adamesh.cli.following import begin, follow, speaks
    from adamesh.train.check import REPORT
    from adamesh.train.comparison import CheckReport

    folder, size = begin(config, "check")
    code = follow("adamesh.train.check", [str(folder)], folder, size, saves=False)
    if code or not (folder / REPORT).exists():
        return code or 1
    report = CheckReport.load(folder / REPORT)
    if speaks():
        _print(report)
    return 1 if report.failures else 0


def _print(report: "CheckReport") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from adamesh.cli.following import say

    console = Console(highlight=False)
    title = f"{report.task}, {report.steps} steps: {report.rule} on {report.world_size} workers against torch"
    columns = ("parameter", "value", "tolerance", "gradient", "tolerance", "copies")
    table = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD)
    table.columns[0].overflow = "fold"
    shown = sorted(report.parameters, key=lambda parameter: -parameter.share)[:_MOST_ROWS]
    for parameter in (p for p in report.parameters if p in shown):
        value, gradient = parameter.value, parameter.gradient
        numbers = (value.value, value.tolerance, gradient.value, gradient.tolerance)
        copies = "alike" if parameter.differing_rank is None else "differ"
        style = "bold red" if parameter.share > 1 else None
        table.add_row(parameter.name, *(f"{number:.1e}" for number in numbers), copies, style=style)
    console.print(table)
    if len(shown) < len(report.parameters):
        console.print(f"and {len(report.parameters) - len(shown)} parameters closer to torch's than these")
    console.print(_LEGEND)
    if report.failures:
        first, *others = report.failures
        say(f"check failed: {first}" + (f"; and {len(others)} more" if others else ""))
    else:
        console.print("check passed: the same as with torch, and the same on every worker")
