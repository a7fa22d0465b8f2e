"""A whole planning session: rehearse the candidates, time them, and advise."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from adamesh.cost.calibrate import measure, probe_speed
from adamesh.cost.candidates import Candidate, candidates
from adamesh.cost.case import Case
from adamesh.cost.forecast import Advice, Forecast, Nearby, advise, forecast
from adamesh.cost.links import Link
from adamesh.cost.network import Links
from adamesh.cost.paper import Speed
from adamesh.cost.rehearse import Rehearsed, rehearse_on_paper

__all__ = ["Request", "Session", "plan_for"]

ROUNDS = 12


@dataclass(frozen=True)
class Request:
    """What is asked."""

    links: tuple[Link, ...]
    """Between hosts: each gets its own forecast."""
    island_link: Link | None = None
    """Between workers of a host; None: as ``links``."""
    per_host: int = 1
    device_bytes: float | None = None
    measure: bool = False
    speed: Speed | None = None
    """Of a worker's device; None: this machine's, as found in a moment."""
    every_step: bool = False


@dataclass(frozen=True)
class Session:
    """What was found."""

    case: Case
    request: Request
    speed: Speed
    measured: bool
    forecasts: dict[str, list[Forecast]]
    """By link, as the request names it."""
    advice: dict[str, Advice]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        case = self.case
        return {
            "task": case.config.task,
            "world": case.world,
            "batch_size": case.config.batch_size,
            "measured": self.measured,
            "speed": asdict(self.speed),
            "links": {
                link: {
                    "recommended": chosen.candidate.name if (chosen := self.advice[link].chosen) else None,
                    "reason": self.advice[link].reason,
                    "plans": [_plain(forecast) for forecast in forecasts],
                }
                for link, forecasts in self.forecasts.items()
            },
        }


def plan_for(case: Case, request: Request, progress: Callable[[str], None] = lambda line: None) -> Session:
    """Find the price of every sensible plan.

    Args:
        case: what is to be trained.
        request: on what.
        progress: told what is being done.
    """
    plans = candidates(case.config, case.world, request.per_host)
    speed = request.speed or probe_speed()
    paper = []
    for candidate in plans:
        progress(f"on paper: {candidate.name}")
        paper.append(rehearse_on_paper(case, candidate.settings, speed))
    links = request.links
    inside = request.island_link
    rehearsals: Sequence[Rehearsed] = paper
    nearby: Sequence[Nearby | None] = [None] * len(plans)
    if request.measure:
        progress("measuring: workers take steps side by side")
        measured = measure(case, plans, ROUNDS)
        links = tuple(link.calibrated(measured.loopback) for link in links)
        inside = None if inside is None else inside.calibrated(measured.loopback)
        nearby = [None if s is None else Nearby(s, measured.loopback) for s in measured.together_s]
        rehearsals = [_timed(told, seen) for told, seen in zip(paper, measured.rehearsals, strict=True)]
    works_s = [work for seen in rehearsals for work in _relative(seen)]
    forecasts = {
        asked.name: [
            _priced(case, request, candidate, rehearsed, Links(link, inside or link), works_s, near)
            for candidate, rehearsed, near in zip(plans, rehearsals, nearby, strict=True)
        ]
        for asked, link in zip(request.links, links, strict=True)
    }
    advice = {link: advise(found, every_step=request.every_step) for link, found in forecasts.items()}
    return Session(case, request, speed, request.measure, forecasts, advice)


def _priced(
    case: Case,
    request: Request,
    candidate: Candidate,
    rehearsed: Rehearsed,
    links: Links,
    works: Sequence[float],
    nearby: Nearby | None,
) -> Forecast:
    assert case.config.batch_size is not None
    mean_s = sum(rehearsed.works_s) / len(rehearsed.works_s) if rehearsed.works_s else 0.0
    return forecast(
        candidate,
        rehearsed,
        links,
        world=case.world,
        batch_size=case.config.batch_size,
        device_bytes=request.device_bytes,
        works_s=[work * mean_s for work in works],
        nearby=nearby,
    )


def _relative(rehearsed: Rehearsed) -> list[float]:
    """Steps' seconds over their mean: how much steps vary is taken from all plans together."""
    mean_s = sum(rehearsed.works_s) / len(rehearsed.works_s) if rehearsed.works_s else 1.0
    return [work_s / mean_s for work_s in rehearsed.works_s]


def _timed(on_paper: Rehearsed, for_real: Rehearsed) -> Rehearsed:
    """What was counted on paper, with times that were measured."""
    return replace(on_paper, kinds=for_real.kinds, works_s=for_real.works_s)


def _plain(forecast: Forecast) -> dict[str, Any]:
    rehearsed = forecast.rehearsed
    return {
        "plan": forecast.candidate.name,
        "options": forecast.candidate.options,
        "settings": asdict(forecast.candidate.settings),
        "effect": forecast.candidate.effect.name.lower(),
        "fits": forecast.fits,
        "step_s": forecast.step_s,
        "work_s": forecast.timing.work_s,
        "exposed_s": forecast.timing.exposed_s,
        "wire_s": forecast.timing.wire_s,
        "skew_s": forecast.skew_s,
        "samples_per_s": forecast.samples_per_s,
        "bytes_up_per_step": rehearsed.bytes_up,
        "bytes_down_per_step": rehearsed.bytes_down,
        "state_bytes_per_rank": rehearsed.state_bytes,
        "param_count": rehearsed.param_count,
        "flops_per_step": rehearsed.flops,
        "memory": None if rehearsed.memory is None else asdict(rehearsed.memory),
        "not_traced": rehearsed.not_traced,
    }
