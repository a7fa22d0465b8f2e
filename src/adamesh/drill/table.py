"""A drill for people: a table of faults and what became of them."""

import math
import statistics
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adamesh.drill.outcome import Rehearsal
from adamesh.drill.rehearse import Drill
from adamesh.drill.soak import Soak

__all__ = ["print_drill", "print_soak", "quantile"]

_LEGEND = """\
detected: from the fault until the last worker knew of it. trains again: from the fault to the last worker's first step
made afterwards. stalled: the longest that a worker waited between two steps. whole: as many workers as before make
steps again. Seconds: median / 99th percentile / most. lost: steps made and made again; samples lost + repeated, by the
ledger. parameters: the final ones' distance from those of the run without a fault, as a share of their norm.
"""


def print_drill(console: Console, drill: Drill) -> None:
    """The table, what could not be rehearsed, and what went wrong."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    columns = ("fault", "hits", "detected", "trains again", "stalled", "whole", "steps\nlost", "samples\nlost")
    for column in (*columns, "parameters", "ended"):
        table.add_column(column, justify="left" if column in ("fault", "ended") else "right", overflow="fold")
    for found in drill.rehearsals:
        table.add_row(*_cells(found))
    console.print(table)
    console.print(_LEGEND, end="", style="dim", soft_wrap=True)
    for found in drill.rehearsals:
        if not found.lost_nothing or found.problem:
            why = found.problem or found.ending.last_words or "; ".join(found.ending.refused)
            console.print(f"{_name(found)}: {why or 'its ledger is another one'}", soft_wrap=True)
    for fault, why in drill.skipped.items():
        console.print(f"{fault} was left out: {why}", soft_wrap=True)
    console.print(
        f"{drill.task}: {drill.steps} steps of {1000 * drill.step_s:.1f} ms, {drill.workers} workers; "
        f"{drill.machine.line()}",
        soft_wrap=True,
    )


def print_soak(console: Console, soak: Soak) -> None:
    """Faults by kind, and how the run fared beside the one without."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("fault", "hits", "detected", "trains again", "stalled", "whole"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    found = soak.rehearsal
    for fault in dict.fromkeys(hit.fault for hit in found.hits):
        hits = [hit for hit in found.hits if hit.fault == fault]
        times = ([getattr(hit, f"{key}_s") for hit in hits] for key in ("detection", "recovery", "stall", "whole"))
        table.add_row(fault, str(len(hits)), *map(_spread, times))
    console.print(table)
    end, calm = found.ending, soak.calm
    if not end.finished or found.problem:
        console.print(f"FAILED: {found.problem or end.last_words}", soft_wrap=True)
    if end.finished:
        samples = "as without a fault" if found.same_samples else "ANOTHER ONE"
        console.print(
            f"goodput {soak.goodput:.1%}: the share of time in steps as they usually are, over that without a fault",
            soft_wrap=True,
        )
        console.print(
            f"{end.steps} steps in {end.seconds:.1f} s, without a fault {calm.seconds:.1f} s: {soak.pace:.1%} of its "
            f"pace; loss {end.final_loss:.4g}, without a fault {calm.final_loss:.4g}; test "
            f"{_tested(end.test)}, without a fault {_tested(calm.test)}; steps lost {end.steps_lost}, ledger "
            f"{samples}, {end.checkpoints} checkpoint(s), all of which can be loaded",
            soft_wrap=True,
        )
    console.print(soak.machine.line(), soft_wrap=True)


def _tested(test: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in test.items())


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least such a share of all does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _cells(found: Rehearsal) -> list[str]:
    end, hits = found.ending, found.hits
    samples = f"{found.lost_samples} + {found.repeated_samples}" if end.finished else "-"
    if end.finished and not found.same_samples and samples == "0 + 0":
        samples = "others"
    rollbacks = f", {end.rollbacks} rollback(s)" if end.rollbacks else ""
    ended = f"{end.workers} worker(s), loss {end.final_loss:.4g}{rollbacks}" if end.finished else "FAILED"
    return [
        _name(found),
        str(len(hits)),
        _spread([hit.detection_s for hit in hits]),
        _spread([hit.recovery_s for hit in hits]),
        _spread([hit.stall_s for hit in hits]),
        _spread([hit.whole_s for hit in hits]),
        str(end.steps_lost),
        samples,
        "-" if found.difference is None else f"{found.difference:.1e}",
        ended,
    ]


def _name(found: Rehearsal) -> str:
    return found.fault if found.respawn else f"{found.fault}, stays away"


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if len(known) == 1:
        return f"{known[0]:.3f}"
    return f"{statistics.median(known):.3f} / {quantile(known, 0.99):.3f} / {max(known):.3f}"
