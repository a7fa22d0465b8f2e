"""``adamesh bench elastic``: workers of a million-parameter model are killed, again and again, in one session."""

import json
import math
import random
import secrets
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adamesh.bench.elastic_crew import Crew
from adamesh.bench.elastic_faults import Loss, hit, leave_alone
from adamesh.bench.elastic_reference import distance, final_loss, train_alone
from adamesh.bench.elastic_worker import NUM_SAMPLES, Course, Made
from adamesh.bench.hogs import hogs
from adamesh.bench.machine import Machine
from adamesh.bench.options import ElasticOptions
from adamesh.data.ledger import Ledger, expected
from adamesh.data.sampler import GlobalSampler
from adamesh.errors import AdameshError
from adamesh.train.progress import display_for

__all__ = ["ElasticResult", "bench_elastic"]

_LAST_STEPS = 30
"""Between the last fault and the end; all have heard by then when that is."""


@dataclass(frozen=True)
class ElasticResult:
    """Everything that was measured."""

    machine: Machine
    options: ElasticOptions
    losses: Sequence[Loss]
    steps: int
    steps_lost: int
    samples_wrong: int
    """Samples too few or too many."""
    same_ledger: bool
    """Every sample of every step was used once, and in that step."""
    loss: float
    """Of the final parameters, over all samples."""
    loss_calm: float | None
    """Of the process that trained without a fault in the same precision; it, and what follows from it, is left out
    where the workers had no fault either."""
    difference: float | None
    """Of the final parameters from those of one process that trained without a fault in double precision: the norm of
    the difference over their norm."""
    difference_calm: float | None
    """The same of one process that trained in the same precision without a fault, cutting each batch among as many."""
    suspected: int
    """Workers that the others took for dead, though nothing was done to them: others joined in their place."""
    alike: bool
    """All workers ended with the same parameters."""

    @property
    def lost_nothing(self) -> bool:
        """Every step and sample counted once, and everybody ended alike."""
        return self.same_ledger and self.alike and not self.steps_lost


def bench_elastic(options: ElasticOptions, console: Console | None = None) -> ElasticResult:
    """Measure, print a table and write JSON.

    Raises:
        AdameshError: training does not go on.
    """
    console = console or Console(highlight=False, markup=False, width=max(110, Console().width))
    folder = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S-bench-elastic")
    folder.mkdir(parents=True, exist_ok=True)
    machine, display = Machine.observed(), display_for(True, console, "fault")
    course = Course(
        options.dtype, options.up, options.redundancy, options.batch_size, options.seed, secrets.token_hex(16)
    )
    draw = random.Random(options.seed)
    losses: list[Loss] = []
    calm = options.fault == "none"
    display.begin([("workers", str(options.nproc)), ("folder", str(folder))], 0, 0 if calm else options.times)
    try:
        with hogs(options.hogs), Crew(course, options.nproc) as crew:
            if calm:
                leave_alone(crew, options)
            for number in range(0 if calm else options.times):
                losses += [hit(crew, options, draw)]
                display.step(number + 1, {"recovery_s": losses[-1].recovery_s, "join_s": losses[-1].join_s})
            states = _end(crew)
    finally:
        display.end()
    result = _judged(machine, options, course, losses, crew, states)
    (folder / "elastic.json").write_text(
        json.dumps({"bench": "elastic", **asdict(result)}, indent=1, default=str) + "\n", encoding="utf-8"
    )
    _print(console, result)
    console.print(f"written to {folder / 'elastic.json'}", soft_wrap=True)
    return result


def _end(crew: Crew) -> list[dict[str, torch.Tensor]]:
    """Let all come to the same step; returns everybody's parameters."""
    last = crew.newest.step + _LAST_STEPS
    for hand in crew.hands:
        hand.connection.send(last)
    crew.await_(lambda: all(hand.words and hand.words[-1][0] == "end" for hand in crew.hands), "the end")
    states = [hand.words[-1][2] for hand in crew.hands]
    for hand in crew.hands:
        hand.connection.send("gone")
    return [{name: torch.from_numpy(value) for name, value in state.items()} for state in states]


def _judged(
    machine: Machine,
    options: ElasticOptions,
    course: Course,
    losses: Sequence[Loss],
    crew: Crew,
    states: Sequence[dict[str, torch.Tensor]],
) -> ElasticResult:
    made: dict[int, Made] = {}
    lost = 0
    for hand in [*crew.hands, *crew.gone]:
        lost += sum(after.step <= before.step for before, after in pairwise(hand.made))
        for one in hand.made:
            known = made.setdefault(one.step, one)
            if (known.used, known.workers) != (one.used, one.workers):
                raise AdameshError(f"step {one.step} was made twice: {known} and {one}")
    steps, ledger = max(made), Ledger()
    for step in range(1, steps + 1):
        ledger = ledger.after(made[step].used) if step in made else ledger
    right = expected(GlobalSampler(NUM_SAMPLES, options.batch_size, options.seed), steps)
    workers = [made[step].workers if step in made else options.nproc for step in range(1, steps + 1)]
    exact = calm = None
    if losses:
        exact = train_alone(replace(course, dtype="float64"), workers)
        calm = exact if options.dtype == "float64" else train_alone(course, workers)
    return ElasticResult(
        machine,
        options,
        losses,
        steps,
        lost,
        abs(ledger.samples - right.samples),
        ledger == right,
        final_loss(course, states[0]),
        None if calm is None else final_loss(course, calm),
        None if exact is None else distance(states[0], exact),
        None if calm is None or exact is None else distance(calm, exact),
        crew.suspected,
        all(distance(state, states[0]) == 0 for state in states),
    )


def _print(console: Console, result: ElasticResult) -> None:
    options = result.options
    happened = f"{len(result.losses)} times {options.victims} worker(s) lost by {options.fault}"
    console.print(
        f"{options.nproc} workers, {options.dtype}, gradients {options.up}, redundancy {options.redundancy}, "
        f"{options.hogs} hogs: {happened if result.losses else f'{options.minutes:g} minutes'}, {result.steps} steps",
        soft_wrap=True,
    )
    table = Table("seconds", "median", "99 %", "most", box=SIMPLE_HEAD)
    for name, times in (
        ("fault to the last survivor's next step", [loss.recovery_s for loss in result.losses]),
        ("a warm standby's word to its first step", [loss.join_s for loss in result.losses]),
    ):
        if times:
            table.add_row(name, *(f"{value:.3f}" for value in (statistics.median(times), p99(times), max(times))))
    if result.losses:
        console.print(table)
    ledger = "as without a fault" if result.same_ledger else "ANOTHER ONE"
    console.print(f"{result.suspected} worker(s) suspected without a fault, and replaced")
    console.print(f"steps lost {result.steps_lost}, samples wrong {result.samples_wrong}, ledger {ledger}")
    alike = f"workers {'alike' if result.alike else 'DIFFER'}"
    if result.losses:
        console.print(
            f"final parameters: {result.difference:.2e} from those in double precision on one process without a fault "
            f"(itself without a fault {result.difference_calm:.2e}); loss {result.loss:.5g}, without a fault "
            f"{result.loss_calm:.5g}; {alike}",
            soft_wrap=True,
        )
    else:
        console.print(f"final loss {result.loss:.5g}; {alike}")
    console.print(result.machine.line(), soft_wrap=True)


def p99(times: Sequence[float]) -> float:
    """The smallest that 99 % of all do not exceed."""
    return sorted(times)[max(0, math.ceil(0.99 * len(times)) - 1)]
