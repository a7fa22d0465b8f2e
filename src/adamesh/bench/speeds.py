"""``adamesh bench async``: one worker is slow; what do the others lose?"""

import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adamesh.bench.laps import made
from adamesh.bench.machine import Machine
from adamesh.bench.options import AsyncOptions
from adamesh.bench.speeds_worker import ALONE, TOGETHER, Course, Lap, name_of

__all__ = ["Pace", "SpeedsResult", "bench_async"]

_LEGEND = """\
accepted/s: samples per second whose gradients were accepted, and their share of what the workers do alone, added up
accepted of each worker: the share of its samples; the last worker is the slow one
test loss: after the same number of accepted samples, at the same learning rate; an asynchronous run makes as many
updates as there are pushes, every-step one for a batch of all workers
"""


@dataclass(frozen=True)
class Pace:
    """How one contender did, the mean over seeds."""

    accepted_per_s: float
    share: float
    """Of the workers' own speeds, added up."""
    accepted_shares: list[float]
    """Of each worker's samples."""
    samples: list[float]
    """That each worker trained on."""
    test_losses: list[float]
    """By seed."""
    mean_staleness: float
    staleness: dict[str, int]


@dataclass(frozen=True)
class SpeedsResult:
    """Everything that was measured."""

    machine: Machine
    course: Course
    own_per_s: list[float]
    """Samples per second of each worker alone."""
    paces: dict[str, Pace]


def bench_async(options: AsyncOptions, console: Console | None = None) -> SpeedsResult:
    """Measure, print a table and write JSON.

    Raises:
        AdameshError: a worker failed; one line says which and why.
        KeyboardInterrupt: Ctrl-C.
    """
    console = console or Console(highlight=False, markup=False, width=max(110, Console().width))
    folder = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S-bench-async")
    folder.mkdir(parents=True, exist_ok=True)
    machine = Machine.observed()
    course = Course(
        staleness=tuple(options.staleness),
        slow=options.slow,
        step_s=options.step_ms / 1000,
        batch_size=options.batch_size,
        samples=options.samples,
        lr=options.lr,
        seeds=options.seeds,
    )
    found = made("adamesh.bench.speeds_worker", course, options.nproc, folder)
    laps = [[Lap(**lap) for lap in mine] for mine in found]
    result = summarised(machine, course, laps)
    _print(console, result)
    (folder / "async.json").write_text(json.dumps({"bench": "async", **asdict(result)}, indent=1) + "\n", "utf-8")
    console.print(f"written to {folder / 'async.json'}", soft_wrap=True)
    return result


def summarised(machine: Machine, course: Course, laps: Sequence[Sequence[Lap]]) -> SpeedsResult:
    """The table's numbers from every worker's laps."""
    own = [statistics.mean(lap.samples / lap.seconds for lap in mine if lap.name == ALONE) for mine in laps]
    paces = {}
    for name in (TOGETHER, *(name_of(staleness) for staleness in course.staleness)):
        by_worker = [[lap for lap in mine if lap.name == name] for mine in laps]
        # The worker that knows first: the slow one learns it only after its step.
        firsts = [min(group, key=lambda lap: lap.seconds) for group in zip(*by_worker, strict=True)]
        speed = statistics.mean(lap.all_accepted / lap.seconds for lap in firsts)
        histogram: Counter[str] = Counter()
        for lap in (lap for mine in by_worker for lap in mine):
            histogram.update(lap.staleness)
        chunks = histogram.total()
        samples = [statistics.mean(lap.samples for lap in mine) for mine in by_worker]
        accepted = [statistics.mean(lap.accepted for lap in mine) for mine in by_worker]
        paces[name] = Pace(
            accepted_per_s=speed,
            share=speed / sum(own),
            accepted_shares=[part / whole for part, whole in zip(accepted, samples, strict=True)],
            samples=samples,
            test_losses=[lap.test_loss for lap in by_worker[0]],
            mean_staleness=sum(int(far) * count for far, count in histogram.items()) / chunks if chunks else 0.0,
            staleness={far: histogram[far] for far in sorted(histogram, key=int)},
        )
    return SpeedsResult(machine, course, own, paces)


def _print(console: Console, result: SpeedsResult) -> None:
    course, own = result.course, result.own_per_s
    speeds = " + ".join(f"{speed:.0f}" for speed in own)
    console.print(
        f"{len(own)} workers, the last one {course.slow:g} times slower: alone they do {speeds} = {sum(own):.0f} "
        f"samples/s; {course.samples:,} accepted samples in batches of {course.batch_size}, {course.seeds} seed(s)",
        soft_wrap=True,
    )
    columns = ("", "accepted/s", "of the sum", "accepted of each worker", "staleness", "test loss", "by seed")
    table = Table(*columns, box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, pace in result.paces.items():
        table.add_row(
            name,
            f"{pace.accepted_per_s:.0f}",
            f"{pace.share:.0%}",
            "  ".join(f"{share:.0%}" for share in pace.accepted_shares),
            f"{pace.mean_staleness:.2f}",
            f"{statistics.mean(pace.test_losses):.4f}",
            "  ".join(f"{loss:.3f}" for loss in pace.test_losses),
        )
    console.print(table)
    console.print(_LEGEND, end="", soft_wrap=True)
    console.print(result.machine.line(), soft_wrap=True)
