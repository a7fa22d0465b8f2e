"""A soak: one long run with faults of all kinds, one after the other, beside the same run without a fault."""

import json
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from adamesh.bench.hosts import Hosts
from adamesh.bench.machine import Machine
from adamesh.drill.hits import Hit, Hitter
from adamesh.drill.names import FaultName
from adamesh.drill.outcome import Ending, Rehearsal, compared, ending
from adamesh.drill.rehearse import calm_run, durations, lasting
from adamesh.drill.session import Ended, Session
from adamesh.errors import AdameshError
from adamesh.train.progress import Display
from adamesh.train.settings import RunConfig

__all__ = ["Soak", "soak"]

_AROUND = 50
"""Steps on either side, among which a fault's are few."""
_LEAST_WORKERS = 3
"""A stopped worker is outvoted by a majority of the others."""


@dataclass(frozen=True)
class Soak:
    """All that was found."""

    machine: Machine
    task: str
    workers: int
    every_s: float
    """From one fault to the next, at least."""
    calm: Ending
    """The run without a fault."""
    rehearsal: Rehearsal
    goodput: float
    """The share of its time that the run spent on steps as they usually are, next to those around them; over the same
    share of the run without a fault, in which it is less than 1 by the scatter of steps."""
    pace: float
    """Seconds in the training loop without a fault, over those with faults, for the same steps. Whatever else the
    machine did at either time is in it, and how many workers there were: on few cores, fewer are quicker."""


def soak(
    config: RunConfig, faults: Sequence[FaultName], minutes: float, every_s: float, folder: Path, display: Display
) -> Soak:
    """Train for some minutes without a fault, then make the same steps with one after the other.

    Args:
        config: of the runs.
        faults: kinds to draw from.
        minutes: that the run without a fault takes, about.
        every_s: seconds from one fault to the next.
        folder: for the runs; made here.
        display: told of each fault; its steps are faults.

    Raises:
        AdameshError: the run without a fault has failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine = Machine.observed()
    most = config.nproc  # more would share the same cores, and be slower without any fault
    config = replace(config, elastic=f"1:{most}", log_every=1)
    if config.steps is None and config.epochs is None:
        config = lasting(config, 60 * minutes, 1, folder / "probe")
    calm, session = calm_run(config, folder / "calm")
    usual = durations(session)
    display.begin(
        [
            ("task", config.task),
            ("workers", str(config.nproc)),
            ("faults", ", ".join(faults) + f"; one every {every_s:.0f} s"),
            ("calm", f"{calm.steps} steps in {calm.seconds:.1f} s, loss {calm.final_loss:.4g}"),
            ("folder", str(folder)),
        ],
        0,
        max(1, round(calm.seconds / every_s)),
    )
    hits: list[Hit] = []
    problem = ""
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(config.nproc, None)) if "cut" in faults else None
        session = Session(config, folder / "soak", hosts=hosts)
        session.rests = False
        stack.enter_context(session)
        draw = random.Random(f"{config.seed} soak")
        hitter = Hitter(session, draw, respawn=True, durations=usual)
        try:
            while True:
                next_s = time.monotonic() + every_s
                possible = [fault for fault in faults if _possible(fault, hitter.there, most)]
                hits += [hitter.hit(draw.choice(possible))]
                after = hits[-1].recovery_s
                display.say(f"{hits[-1].fault} at step {hits[-1].step}" + ("" if after is None else f": {after:.3f} s"))
                display.step(len(hits), {})
                session.rest(max(0.0, next_s - time.monotonic()))
        except Ended:
            pass  # as it should, when all steps are made
        except AdameshError as error:
            problem = str(error)
            session.end()
        finally:
            display.end()
        code = session.wait(lambda: None)
    end = ending(session, code)
    found = compared(("kill", True), hits, (folder / "soak", end), (folder / "calm", calm), problem)
    if not end.finished:
        return Soak(machine, config.task, config.nproc, every_s, calm, found, 0.0, 0.0)
    goodput = _usual_share(folder / "soak", end) / _usual_share(folder / "calm", calm)
    return Soak(machine, config.task, config.nproc, every_s, calm, found, goodput, calm.seconds / end.seconds)


def _usual_share(run: Path, end: Ending) -> float:
    """The share of a run's time that went into steps, of each no more than the median of those around it."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times: list[float] = [record["step_s"] for record in map(json.loads, lines) if "step_s" in record]
    around = [times[max(0, at - _AROUND) : at + _AROUND + 1] for at in range(len(times))]
    return sum(min(time_s, median(others)) for time_s, others in zip(times, around, strict=True)) / end.seconds


def _possible(fault: FaultName, there: int, most: int) -> bool:
    if fault == "join":
        return there < most
    return fault != "leave" or there > _LEAST_WORKERS
