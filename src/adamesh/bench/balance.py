"""``adamesh bench balance``: one worker is slow; how much of the others' speed is left?"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adamesh.bench.balance_worker import ALONE, BALANCED, CONTENDERS, Course, Lap
from adamesh.bench.laps import made
from adamesh.bench.machine import Machine
from adamesh.bench.options import BalanceOptions

__all__ = ["BalanceResult", "bench_balance", "steps_to_adapt", "summarised"]

_LEGEND = """\
samples/s: of all workers together, after the first five steps; and their share of what the workers do alone, added up
shares: of a batch, of each worker, in the last round's last step; the last worker is the slow one
"""
_CLOSE = 1.15
"""Shares have followed once the slowest worker takes at most this factor longer than with the best ones."""


@dataclass(frozen=True)
class BalanceResult:
    """Everything that was measured."""

    machine: Machine
    course: Course
    own_per_s: list[float]
    """Samples per second of each worker alone, the median over rounds."""
    samples_per_s: dict[str, list[float]]
    """By contender and round."""
    of_sum: dict[str, float]
    """The median's share of the workers' own speeds, added up."""
    shares: dict[str, list[int]]
    adapted_after: list[int | None]
    """By round: how many steps were made before shares had followed the speeds; None: not in this lap."""


def bench_balance(options: BalanceOptions, console: Console | None = None) -> BalanceResult:
    """Measure, print a table and write JSON.

    Raises:
        AdameshError: a worker failed; one line says which and why.
        KeyboardInterrupt: Ctrl-C.
    """
    console = console or Console(highlight=False, markup=False, width=max(110, Console().width))
    folder = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S-bench-balance")
    folder.mkdir(parents=True, exist_ok=True)
    machine = Machine.observed()
    sample_s, batch_size = options.sample_ms / 1000, options.batch_size * options.nproc
    course = Course(options.slow, options.by, sample_s, batch_size, options.steps, options.rounds)
    laps = made("adamesh.bench.balance_worker", course, options.nproc, folder)
    result = summarised(machine, course, [[Lap(**lap) for lap in mine] for mine in laps])
    _print(console, result)
    (folder / "balance.json").write_text(json.dumps({"bench": "balance", **asdict(result)}, indent=1) + "\n", "utf-8")
    console.print(f"written to {folder / 'balance.json'}", soft_wrap=True)
    return result


def summarised(machine: Machine, course: Course, laps: Sequence[Sequence[Lap]]) -> BalanceResult:
    """The table's numbers from every worker's laps."""

    def named(name: str) -> list[list[Lap]]:
        return [[lap for lap in mine if lap.name == name] for mine in laps]

    own = [statistics.median(lap.samples_per_s for lap in mine) for mine in named(ALONE)]
    speeds = {name: [lap.samples_per_s for lap in named(name)[0]] for name in CONTENDERS if name != ALONE}
    by_round = list(zip(*named(BALANCED), strict=True))
    return BalanceResult(
        machine=machine,
        course=course,
        own_per_s=own,
        samples_per_s=speeds,
        of_sum={name: statistics.median(found) / sum(own) for name, found in speeds.items()},
        shares={name: [mine[-1].counts[-1] for mine in named(name)] for name in speeds},
        adapted_after=[steps_to_adapt([lap.counts for lap in group], own) for group in by_round],
    )


def steps_to_adapt(counts: Sequence[Sequence[int]], own_per_s: Sequence[float]) -> int | None:
    """How many steps were made before every worker's share took at most 15 % longer than the best ones would.

    Args:
        counts: of each worker, its samples at each step.
        own_per_s: each worker's speed.
    """
    for step, shares in enumerate(zip(*counts, strict=True)):
        slowest_s = max(count / speed for count, speed in zip(shares, own_per_s, strict=True))
        if slowest_s <= _CLOSE * sum(shares) / sum(own_per_s):
            return step
    return None


def _print(console: Console, result: BalanceResult) -> None:
    course, own = result.course, result.own_per_s
    speeds = " + ".join(f"{speed:.0f}" for speed in own)
    console.print(
        f"{len(own)} workers, the last one {course.slow:g} times slower (by {course.by}): alone they do {speeds} = "
        f"{sum(own):.0f} samples/s; batches of {course.batch_size}, {course.rounds} round(s) of {course.steps} steps",
        soft_wrap=True,
    )
    table = Table("", "samples/s", "of the sum", "by round", "shares", box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, found in result.samples_per_s.items():
        table.add_row(
            name,
            f"{statistics.median(found):.0f}",
            f"{result.of_sum[name]:.1%}",
            "  ".join(f"{speed:.0f}" for speed in found),
            "  ".join(map(str, result.shares[name])),
        )
    console.print(table)
    after = "  ".join("never" if steps is None else str(steps) for steps in result.adapted_after)
    console.print(f"steps before shares had followed the speeds, by round: {after}")
    console.print(_LEGEND, end="", soft_wrap=True)
    console.print(result.machine.line(), soft_wrap=True)
