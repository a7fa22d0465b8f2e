"""How plans scale: forecasts at growing numbers of workers, then fleets that straggle and fail, as curves and a table.

Each worker keeps the batch that one of the planned ones has (weak scaling); what changes is what travels. Plans are
rehearsed anew at every size, so that padding, headers and numbers of messages are what they would be.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from adamesh.cost.candidates import Candidate, Effect
from adamesh.cost.case import Case
from adamesh.cost.network import Links, replay
from adamesh.cost.planning import Session
from adamesh.cost.rehearse import rehearse_on_paper
from adamesh.cost.simulate import Fleet, Outcome, Pace, simulate

__all__ = ["Point", "scale"]

_ROUGH = {"spread": 0.05, "jitter": 0.05}
"""Of workers that are not alike: they differ by a twentieth, and so do their steps."""
_MTBF_S = 30 * 24 * 3600.0
_STEPS = 512
_HOURS = 12
_SHOWN = ("exact", "exact, redundancy 2", "int4", "every-16", "diloco-64")


@dataclass(frozen=True)
class Point:
    """One plan at one size over one link."""

    link: str
    plan: str
    workers: int
    bytes_per_step: float
    step_s: float
    ideal_per_s: float
    """Samples a second of a fleet without stragglers and failures,"""
    rough_per_s: float
    """and of one with both."""
    waited_share: float
    """For slower workers."""
    useful_share: float
    """Of the time, what failures leave."""


def scale(session: Session, most: int, console: Console) -> dict[str, Any]:
    """Go through sizes up to ``most``, print a table, and draw the curves where matplotlib is installed."""
    points = []
    sizes = [size for size in _powers(most) if size >= 2]
    with console.status("") as status:
        for workers in sizes:
            status.update(f"{workers} workers")
            points += _points(session, workers)
    _print(console, points)
    base = session.case.config.out or Path("runs")
    base.mkdir(parents=True, exist_ok=True)
    console.print(_plot(points, session.case, base / "scaling.png"), soft_wrap=True)
    return {"fleet": {**_ROUGH, "mtbf_s": _MTBF_S}, "points": [asdict(point) for point in points]}


def _powers(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 4 if size >= 4 else 2


def _points(session: Session, workers: int) -> list[Point]:
    config = session.case.config
    share = session.case.share
    case = replace(session.case, config=replace(config, batch_size=share * workers), world=workers)
    found = []
    useful = {redundant: _useful(workers, redundant) for redundant in (False, True)}
    work_s = {f.candidate.name: f.timing.work_s for f in next(iter(session.forecasts.values()))}
    for candidate in _shown(session):
        rehearsed = rehearse_on_paper(case, candidate.settings, session.speed)
        h = candidate.settings.schedule.h
        for link in session.request.links:
            timing = replay(rehearsed.traces, Links(link, link))
            # What was measured, if it was, holds for any size: a worker's own share stays the same.
            own_s = work_s[candidate.name] if session.measured else timing.work_s
            exposed_s = timing.exposed_s
            # Workers that step alone hold whole copies: what one loses the others have.
            redundant = candidate.for_safety or candidate.effect == Effect.RARE
            pace = Pace(own_s, exposed_s * h, h, redundant)
            smooth = simulate(Fleet(workers), pace, max(1, 64 // h))
            rough = simulate(Fleet(workers, **_ROUGH), pace, max(1, _STEPS // h))
            share_left = useful[redundant]
            sent = rehearsed.bytes_up + rehearsed.bytes_down
            found.append(_point(link.name, candidate, workers, sent, share, smooth, rough, share_left))
        if candidate.name == "exact":
            found += _asynchronous(session, workers, rehearsed.bytes_up + rehearsed.bytes_down, share, useful[True])
    return found


def _useful(workers: int, redundant: bool) -> float:
    """Share of the time that failures leave, found in hours of rounds of a second, in which nobody straggles."""
    rounds = _HOURS * 3600
    fleet, pace = Fleet(workers, mtbf_s=_MTBF_S), Pace(1.0, 0.0, redundant=redundant)
    found = simulate(fleet, pace, rounds, most_s=2.0 * rounds)
    return found.steps_per_s


def _asynchronous(session: Session, workers: int, sent: float, share: int, useful: float) -> list[Point]:
    """As many bytes as exact ones, and nobody waits for anybody; bytes are all waited for, as pushes are."""
    points = []
    for link in session.request.links:
        work_s = next(f for f in session.forecasts[link.name] if f.candidate.name == "exact").timing.work_s
        # A push to every owner and an answer from each.
        exposed_s = sent / link.bytes_per_s + 2 * (link.latency_s + (workers - 1) * link.message_s)
        pace = Pace(work_s, exposed_s, asynchronous=True)
        smooth, rough = simulate(Fleet(workers), pace, 64), simulate(Fleet(workers, **_ROUGH), pace, _STEPS)
        candidate = Candidate("async", session.case.config.plan, Effect.RARE)
        points.append(_point(link.name, candidate, workers, sent, share, smooth, rough, useful))
    return points


def _point(
    link: str,
    candidate: Candidate,
    workers: int,
    sent: float,
    share: int,
    smooth: Outcome,
    rough: Outcome,
    useful: float,
) -> Point:
    return Point(
        link=link,
        plan=candidate.name,
        workers=workers,
        bytes_per_step=sent,
        step_s=smooth.seconds / smooth.steps,
        ideal_per_s=smooth.steps_per_s * workers * share,
        rough_per_s=rough.steps_per_s * workers * share * useful,
        waited_share=rough.waited_share,
        useful_share=useful,
    )


def _shown(session: Session) -> list[Candidate]:
    plans = [forecast.candidate for forecast in next(iter(session.forecasts.values()))]
    return [candidate for candidate in plans if candidate.name in _SHOWN]


def _print(console: Console, points: Sequence[Point]) -> None:
    for link in dict.fromkeys(point.link for point in points):
        here = [point for point in points if point.link == link]
        sizes = list(dict.fromkeys(point.workers for point in here))
        table = Table(f"samples/s over {link}", *(f"{size:,}" for size in sizes), box=box.SIMPLE_HEAD)
        for column in table.columns[1:]:
            column.justify = "right"
        for plan in dict.fromkeys(point.plan for point in here):
            row: Mapping[int, Point] = {point.workers: point for point in here if point.plan == plan}
            table.add_row(plan, *(f"{row[size].rough_per_s:,.0f}" if size in row else "" for size in sizes))
        console.print(table)
    days = _MTBF_S / 86400
    console.print(
        f"workers and their steps differ by {_ROUGH['spread']:.0%} each (lognormal); each worker is lost once in "
        f"{days:.0f} days: without copies of state all restart from a checkpoint (every 10 minutes; 2 minutes)",
        soft_wrap=True,
    )


def _plot(points: Sequence[Point], case: Case, file: Path) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed (pip install 'adamesh[plots]')"
    links = list(dict.fromkeys(point.link for point in points))
    figure = Figure(figsize=(6.2 * len(links), 4.4), layout="constrained")
    axes = figure.subplots(1, len(links), squeeze=False)[0]
    for axis, link in zip(axes, links, strict=True):
        here = [point for point in points if point.link == link]
        for number, plan in enumerate(dict.fromkeys(point.plan for point in here)):
            line = [point for point in here if point.plan == plan]
            sizes, color = [point.workers for point in line], f"C{number}"
            share = case.share
            axis.plot(sizes, [p.rough_per_s / (p.workers * share) for p in line], color=color, marker="o", label=plan)
            axis.plot(sizes, [p.ideal_per_s / (p.workers * share) for p in line], color=color, linestyle=":", alpha=0.7)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(f"{case.config.task} over {link}")
        axis.set_xlabel("workers, each with the same batch")
        axis.set_ylabel("steps a second")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.suptitle("solid: stragglers and failures; dotted: none")
    figure.savefig(file, dpi=110)
    return f"plot in {file}"
