"""What this machine does: a processor's speed, and workers' own steps, timed side by side as they will run."""

import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from adamesh.cost.candidates import Candidate
from adamesh.cost.case import Case
from adamesh.cost.links import LOOPBACK, Link
from adamesh.cost.paper import Speed
from adamesh.cost.rehearse import Rehearsed, StepKind
from adamesh.cost.trace import Event, Trace
from adamesh.errors import AdameshError
from adamesh.train.config import write_config
from adamesh.train.launch import run_workers

__all__ = ["Course", "Measured", "measure", "probe_speed"]

_SIDE = 512
_COPIED = 1 << 24
_REPEATS = 5


@dataclass(frozen=True)
class Course:
    """What the measuring workers do."""

    world: int
    """The workers that are planned for; there may be fewer here."""
    rounds: int
    plans: tuple[dict[str, Any], ...]
    """Settings of each plan."""


@dataclass(frozen=True)
class Measured:
    """What they found."""

    loopback: Link
    rehearsals: tuple[Rehearsed, ...]
    """By plan."""
    together_s: tuple[float | None, ...]
    """By plan: seconds of a step that workers made together, over loopback; None where not all of them had a core."""


def probe_speed() -> Speed:
    """One thread group's speed as torch is set now: a matrix product, a copy, and a small sum, the best of a few."""
    a = torch.randn(_SIDE, _SIDE)
    b = torch.randn(_COPIED // 4)
    c = torch.empty_like(b)
    small = torch.zeros(64)
    return Speed(
        flops_per_s=2 * _SIDE**3 / _best(lambda: torch.mm(a, a)),
        bytes_per_s=2 * _COPIED / _best(lambda: c.copy_(b)),
        operation_s=_best(lambda: [small.add_(1.0) for _ in range(100)]) / 100,
    )


def measure(case: Case, candidates: Sequence[Candidate], rounds: int) -> Measured:
    """Let as many workers as there are cores, and no more than are planned for, take steps side by side.

    Raises:
        AdameshError: one failed; one line says which and why.
        KeyboardInterrupt: Ctrl-C.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    nproc = min(case.world, cores)
    with tempfile.TemporaryDirectory(prefix="adamesh-plan-") as name:
        folder = Path(name)
        write_config(case.config, folder / "config.toml")
        course = Course(case.world, rounds, tuple(asdict(candidate.settings) for candidate in candidates))
        (folder / "course.json").write_text(json.dumps(asdict(course)), encoding="utf-8")
        outcome = run_workers("adamesh.cost.measuring", [str(folder)], nproc=nproc, logs=folder, on_stop=lambda: None)
        if outcome.stopped:
            raise KeyboardInterrupt
        if outcome.failure is not None:
            raise AdameshError(f"measuring failed: {outcome.failure.line()}")
        found = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    loopback = Link(**found["loopback"]) if found["loopback"] else LOOPBACK
    together_s = tuple(statistics.median(turns) if turns else None for turns in found["together_s"])
    return Measured(loopback, tuple(_rehearsed(plain) for plain in found["rehearsals"]), together_s)


def _rehearsed(plain: dict[str, Any]) -> Rehearsed:
    kinds = []
    for kind in plain["kinds"]:
        trace = kind["trace"]
        events = tuple(Event(**event) for event in trace["events"])
        kinds.append(StepKind(**{**kind, "trace": Trace(events, trace["rest_s"])}))
    given = {**plain, "kinds": tuple(kinds), "period": tuple(plain["period"]), "works_s": tuple(plain["works_s"])}
    return Rehearsed(**given)


def _best(action: Any) -> float:
    action()
    times = []
    for _ in range(_REPEATS):
        start_s = perf_counter()
        action()
        times.append(perf_counter() - start_s)
    return min(times)
