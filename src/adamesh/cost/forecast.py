"""What each plan will cost, and which one to take."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

from adamesh.cost.candidates import Candidate, Effect
from adamesh.cost.links import Link
from adamesh.cost.network import Links, Timing, replay
from adamesh.cost.rehearse import Rehearsed

__all__ = ["Advice", "Forecast", "Nearby", "advise", "forecast", "skew_s"]

NEAR = 0.05
"""A plan that changes less of what is trained is taken if the fastest one is not faster by more than this."""


@dataclass(frozen=True)
class Forecast:
    """One plan's price."""

    candidate: Candidate
    rehearsed: Rehearsed
    timing: Timing
    skew_s: float
    """Waited a step for the slower ones of equal workers."""
    samples_per_s: float
    """Of all workers."""
    fits: bool
    """Into the device's memory, as far as both are known."""
    step_s: float
    """Seconds a step, the mean over a period."""


@dataclass(frozen=True)
class Nearby:
    """Steps that all workers made together on one machine."""

    step_s: float
    link: Link
    """What was between them."""


@dataclass(frozen=True)
class Advice:
    """Which plan, and why."""

    chosen: Forecast | None
    """None: none fits."""
    reason: str
    exact: Forecast | None
    """The fastest of those that change nothing, if the chosen one does."""


def forecast(
    candidate: Candidate,
    rehearsed: Rehearsed,
    links: Links,
    *,
    world: int,
    batch_size: int,
    device_bytes: float | None,
    works_s: Sequence[float] = (),
    nearby: Nearby | None = None,
) -> Forecast:
    """The price of a plan.

    Args:
        candidate: the plan.
        rehearsed: what it does.
        links: what it sends over.
        world: workers.
        batch_size: samples of all workers in a step.
        device_bytes: memory of each worker's device; None: any.
        works_s: seconds that steps of one worker took, on their own; empty: all alike.
        nearby: what was measured of all workers together; the link's part is all that is foretold then.
    """
    timing = replay(rehearsed.traces, links)
    late_s = skew_s(works_s, world) * _meetings(rehearsed)
    step_s = timing.step_s + late_s
    if nearby is not None:
        there_s = replay(rehearsed.traces, Links(nearby.link, nearby.link)).step_s
        step_s = nearby.step_s + max(0.0, timing.step_s - there_s)
    peak = 0 if rehearsed.memory is None else rehearsed.memory.peak
    return Forecast(
        candidate=candidate,
        rehearsed=rehearsed,
        timing=timing,
        skew_s=late_s,
        samples_per_s=batch_size / step_s,
        fits=device_bytes is None or peak <= device_bytes,
        step_s=step_s,
    )


def skew_s(works_s: Sequence[float], world: int) -> float:
    """How much later than the median step the slowest of so many workers' is, in the median.

    The maximum of ``W`` independent steps is below ``x`` with probability ``F(x) ** W``, so that its median is F's
    quantile of ``0.5 ** (1 / W)``.
    """
    if len(works_s) < 2 or world == 1:
        return 0.0
    ordered = sorted(works_s)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return quantile(0.5 ** (1.0 / world)) - quantile(0.5)


def advise(forecasts: Sequence[Forecast], *, every_step: bool = False) -> Advice:
    """The least invasive of the plans that are about as fast as the fastest.

    Args:
        forecasts: of all plans.
        every_step: leave out plans whose workers step alone.
    """
    fitting = [f for f in forecasts if f.fits]
    allowed = [f for f in fitting if not (every_step and f.candidate.effect == Effect.RARE)]
    fast = [f for f in allowed if not f.candidate.for_safety]
    if not fast:
        return Advice(None, _why_none(forecasts), None)
    fastest = min(fast, key=lambda f: f.step_s)
    near = [f for f in fast if f.step_s <= fastest.step_s * (1 + NEAR)]
    chosen = min(near, key=lambda f: (f.candidate.effect, f.step_s))
    exact = min((f for f in fast if f.candidate.effect == Effect.EXACT), key=lambda f: f.step_s, default=None)
    return Advice(chosen, _reason(chosen, fastest, exact), None if chosen is exact else exact)


def _meetings(rehearsed: Rehearsed) -> float:
    """How often a step workers wait for each other; the skew of ``h`` steps together is that of one times its root."""
    meets = rehearsed.mean(lambda kind: bool(kind.trace.events))
    return sqrt(meets)


def _reason(chosen: Forecast, fastest: Forecast, exact: Forecast | None) -> str:
    waits = chosen.timing.exposed_s / chosen.step_s if chosen.step_s else 0.0
    lines = [f"{chosen.step_s * 1e3:.3g} ms a step, {waits:.0%} of it waiting for the link"]
    if chosen is fastest:
        lines.append("nothing that fits is faster")
    else:
        ahead = chosen.step_s / fastest.step_s - 1
        lines.append(f"{fastest.candidate.name} is only {ahead:.0%} faster and changes more of what is trained")
    if exact is not None and chosen is not exact:
        lines.append(f"{exact.step_s / chosen.step_s:.3g} times as fast as {exact.candidate.name}")
    if chosen.candidate.effect == Effect.RARE:
        lines.append("workers step alone in between: look at the loss too (adamesh compare --over plan.sync=...)")
    if chosen.candidate.effect == Effect.CODED:
        lines.append("what is dropped of gradients is sent later")
    return "; ".join(lines)


def _why_none(forecasts: Sequence[Forecast]) -> str:
    least = min((f for f in forecasts if f.rehearsed.memory), key=_peak, default=None)
    if least is None:
        return "no plan is left"
    gib = ceil(_peak(least) / 2**30 * 100) / 100
    return (
        f"no plan fits: the least, {least.candidate.name}, needs {gib:g} GiB. More workers share the optimizer's "
        "state; micro_batches and a smaller batch_size save activations; parameters and gradients are whole on every "
        "worker (FSDP2 cuts them, adamesh does not)"
    )


def _peak(forecast: Forecast) -> int:
    return 0 if forecast.rehearsed.memory is None else forecast.rehearsed.memory.peak
