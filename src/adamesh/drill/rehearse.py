"""The drill: a run without a fault, then one for each kind of fault, all of the same steps."""

import random
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from adamesh.bench.hosts import Hosts
from adamesh.bench.machine import Machine
from adamesh.drill.hits import Hit, Hitter
from adamesh.drill.names import FaultName
from adamesh.drill.notes import WHOLE_STEP
from adamesh.drill.outcome import Ending, Rehearsal, compared, ending
from adamesh.drill.session import Ended, Session
from adamesh.errors import AdameshError, ConfigurationError
from adamesh.train.progress import Display
from adamesh.train.rehearsal import MADE
from adamesh.train.settings import RunConfig

__all__ = ["Drill", "Settings", "calm_run", "durations", "lasting", "rehearse"]

_PROBE_STEPS = 100
_STEPS, _SECONDS = 120, 4.0
"""Before and after the faults, and for each, at least: many are made, slowly, while a new worker starts."""


@dataclass(frozen=True)
class Settings:
    """What is rehearsed."""

    faults: Sequence[FaultName]
    times: int
    """How often each kind hits a run."""
    respawn: Sequence[bool]
    """Whether lost workers come again; each kind of which workers are lost has a run for each."""


@dataclass(frozen=True)
class Drill:
    """All that was found."""

    machine: Machine
    task: str
    workers: int
    steps: int
    step_s: float
    """The usual time of a step, without a fault."""
    calm: Ending
    """The run without a fault."""
    rehearsals: Sequence[Rehearsal]
    skipped: Mapping[FaultName, str]
    """Kinds that this machine cannot rehearse, and why."""


def rehearse(config: RunConfig, settings: Settings, folder: Path, display: Display) -> Drill:
    """Train without a fault, then with each kind of them.

    Args:
        config: of the runs.
        settings: the faults.
        folder: for all the runs; made here.
        display: told of each run that ends; its steps are runs.

    Raises:
        AdameshError: the run without a fault has failed.
        ConfigurationError: a setting is out of range.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine = Machine.observed()
    config = replace(config, elastic=f"1:{config.nproc}", log_every=1)
    courses = [(fault, respawn) for fault in settings.faults for respawn in _respawns(fault, settings.respawn)]
    if config.steps is None and config.epochs is None:
        parts = 1 + settings.times
        config = lasting(config, _SECONDS * parts, _STEPS * parts, folder / "probe")
    display.begin(
        [
            ("task", config.task),
            ("workers", str(config.nproc)),
            ("faults", ", ".join(settings.faults) + f"; {settings.times} time(s) each"),
            ("folder", str(folder)),
        ],
        0,
        len(courses) + 1,
    )
    done = 0
    rehearsals: list[Rehearsal] = []
    skipped: dict[FaultName, str] = {}
    try:
        calm, session = calm_run(config, folder / "calm")
        usual = durations(session)
        done += 1
        display.step(done, {})
        display.say(f"without a fault: {calm.steps} steps of {1000 * usual[WHOLE_STEP]:.1f} ms, ledger {calm.digest}")
        for fault, respawn in courses:
            name = f"{fault}{'' if respawn else '-gone'}"
            try:
                found = _rehearsed(config, (fault, respawn), settings.times, (folder, calm), usual)
            except ConfigurationError as error:
                if fault != "cut":
                    raise
                skipped[fault] = str(error)
                display.say(f"cut is left out: {error}")
            else:
                rehearsals.append(found)
                display.say(_line(name, found))
            done += 1
            display.step(done, {})
    finally:
        display.end()
    return Drill(machine, config.task, config.nproc, calm.steps, usual[WHOLE_STEP], calm, rehearsals, skipped)


def lasting(config: RunConfig, seconds: float, least: int, folder: Path) -> RunConfig:
    """The configuration with as many steps as last so long without a fault, found by a short run, and at least so many.

    Raises:
        AdameshError: the short run has failed.
    """
    _, session = calm_run(replace(config, steps=_PROBE_STEPS), folder)
    return replace(config, steps=max(least, round(seconds / durations(session)[WHOLE_STEP])))


def durations(session: Session) -> dict[str, float]:
    """How long steps and their phases usually last, seconds: the median over all workers' notes, by phase."""
    found: dict[str, list[float]] = {}
    for worker in session.notes.workers.values():
        for note, after in pairwise(worker.notes):
            found.setdefault(note.phase, []).append(after.at_s - note.at_s)
        made = [note.at_s for note in worker.notes if note.phase == MADE]
        found.setdefault(WHOLE_STEP, []).extend(after - before for before, after in pairwise(made))
    return {phase: statistics.median(times) for phase, times in found.items() if times}


def _respawns(fault: FaultName, wanted: Sequence[bool]) -> Sequence[bool]:
    """Nobody comes again where nobody is lost, and one who is to stay away cannot be stopped twice."""
    return (True,) if fault in ("slow", "join", "leave", "cut") else wanted


def calm_run(config: RunConfig, folder: Path) -> tuple[Ending, Session]:
    """Train without a fault.

    Raises:
        AdameshError: it has failed.
    """
    with Session(config, folder) as session:
        code = session.wait(lambda: None)
    end = ending(session, code)
    if not end.finished:
        raise AdameshError(f"the run without a fault has failed ({end.last_words}); its log is in {folder / 'logs'}")
    return end, session


def _rehearsed(
    config: RunConfig,
    course: tuple[FaultName, bool],
    times: int,
    calm: tuple[Path, Ending],
    usual: Mapping[str, float],
) -> Rehearsal:
    fault, respawn = course
    parent, calm_end = calm
    folder = parent / f"{fault}{'' if respawn else '-gone'}"
    # Who is lost for good can be lost only as often as somebody is left, with a majority each time.
    times = min(times, config.nproc - 1) if not respawn or fault == "leave" else times
    most = config.nproc + times if fault == "join" else config.nproc
    hits: list[Hit] = []
    problem = ""
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(config.nproc, None)) if fault == "cut" else None
        session = Session(replace(config, elastic=f"1:{most}"), folder, respawn=respawn, hosts=hosts)
        stack.enter_context(session)
        draw = random.Random(f"{config.seed} {fault} {respawn}")
        hitter = Hitter(session, draw, respawn=respawn, durations=usual)
        try:
            for _ in range(times):
                hits += [hitter.hit(fault)]
        except Ended as end:
            problem = f"{len(hits)} of {times} faults before the end: {end}; give it more --steps"
        except AdameshError as error:
            problem = str(error)
            session.end()
        code = session.wait(lambda: None)
    return compared(course, hits, (folder, ending(session, code)), (parent / "calm", calm_end), problem)


def _line(name: str, found: Rehearsal) -> str:
    recovered = [hit.recovery_s for hit in found.hits if hit.recovery_s is not None]
    after = f", {statistics.median(recovered):.3f} s to the next step" if recovered else ""
    why = found.problem or found.ending.last_words
    end = why or ("nothing lost" if found.lost_nothing else "something was lost")
    return f"{name}: {len(found.hits)} fault(s){after}, {end}"
