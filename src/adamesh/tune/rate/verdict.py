"""Which learning rate a curve suggests, and why; or why it does not tell."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, log10, sqrt
from statistics import median

from adamesh.tune.rate.curve import Curve, Look, between_seeds, lowest_by_chance, noise_of, smoothed
from adamesh.tune.statistics import Interval, mean_interval

__all__ = ["Marks", "Verdict", "judge", "rounded"]

_BELOW_DIVERGENCE = 10.0
"""So many times below the rate at which training breaks down is one end of where the best rates are (decision 24)."""
_LOST = 0.5
"""It has broken down where so much of the fall is lost again."""
_CHANCE = 0.01
"""That noise alone is taken for a fall."""
_ROUNDING = 1e-6
"""Of a loss in float32."""
_SURE = 0.99
"""Confidence that something was learnt of the inputs."""
_WIDTHS_PER_DECADE = 6.0
_START_WIDTHS = 2
_APART = 10.0
"""Seeds whose suggestions are more times apart do not agree."""
_STEADY = (1, 1.5, 2, 3, 5, 7, 10)
"""What a suggestion is rounded to: it is not known better."""
_FEWEST_LOOKS = 4


@dataclass(frozen=True)
class Marks:
    """Where a curve does what; rates of None: nowhere."""

    smooth: list[float]
    noise: float
    """Standard deviation of one step's loss."""
    start: float
    """Loss where the rate is too small to matter."""
    lowest: float
    by_chance: float
    """A fall of so much may be noise."""
    lowest_at: int
    """Step, as are the next two."""
    steepest_at: int
    broken_at: int | None

    @property
    def fall(self) -> float:
        return self.start - self.lowest


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a curve."""

    rate: float | None
    """Suggested; None: unsure."""
    reason: str
    remedy: str
    """What to try where it is unsure; empty otherwise."""
    rates: Sequence[float]
    losses: Sequence[float]
    """The median over seeds."""
    marks: Marks | None
    learnt: Interval | None
    """How much higher the test loss is when inputs are put to each other's targets; None: it could not be compared."""
    by_seed: dict[int, float | None] = field(default_factory=dict)


def judge(curves: Sequence[Curve]) -> Verdict:
    """The verdict on the climbs of all seeds together."""
    by_seed = {curve.seed: _judged([curve]).rate for curve in curves}
    verdict = _judged(curves)
    found = [rate for rate in by_seed.values() if rate is not None]
    reason, remedy, rate = verdict.reason, verdict.remedy, verdict.rate
    if rate is not None and found and max(found) > _APART * min(found):
        rate = None
        reason = f"seeds do not agree: each alone suggests {min(found):g} to {max(found):g}"
        remedy = "give more seeds, or a larger --batch-size"
    return Verdict(rate, reason, remedy, verdict.rates, verdict.losses, verdict.marks, verdict.learnt, by_seed)


def rounded(rate: float) -> float:
    """The nearest of 1, 1.5, 2, 3, 5 and 7 times a power of ten, in ratio."""
    power = 10.0 ** floor(log10(rate))
    nearest = min(_STEADY, key=lambda steady: abs(log10(steady * power / rate)))
    return float(f"{nearest * power:.2g}")


def _judged(curves: Sequence[Curve]) -> Verdict:
    rates = curves[0].rates
    losses = between_seeds(curves)
    per_decade = (len(rates) - 1) / log10(rates[-1] / rates[0])
    if len(losses) < per_decade:
        reason = f"training broke down at {rates[len(losses) - 1]:.2g}, within a decade of the lowest rate"
        return Verdict(None, reason, f"begin lower: --lowest {rates[0] / 1e3:.0e}", rates, losses, None, None)
    marks = _marks(losses, per_decade, ended=len(losses) < len(rates))
    learnt = _learnt([look for curve in curves for look in curve.looks], marks, per_decade)
    rate, reason, remedy = _decided(rates, marks, learnt)
    return Verdict(rate, reason, remedy, rates, losses, marks, learnt)


def _marks(losses: Sequence[float], per_decade: float, *, ended: bool) -> Marks:
    width = max(1.0, per_decade / _WIDTHS_PER_DECADE)
    num_start = max(3, round(_START_WIDTHS * width))
    start = sum(losses[:num_start]) / num_start
    calm = [median(losses[max(0, step - 2) : step + 3]) for step in range(len(losses))]
    # What explodes must not reach back to what was before.
    ceiling = start + 2 * max(start - min(calm), noise_of(losses))
    smooth = smoothed([min(loss, ceiling) for loss in losses], width)
    lowest_at = smooth.index(min(smooth))
    noise = noise_of(losses[: max(lowest_at, num_start) + 1])
    lowest = smooth[lowest_at]
    lost = lowest + _LOST * (start - lowest)
    beyond = [step for step in range(lowest_at, len(smooth)) if smooth[step] > lost]
    last = len(losses) - 1
    slopes = [smooth[step] - smooth[step + 1] for step in range(lowest_at)]
    return Marks(
        smooth=smooth,
        noise=noise,
        start=start,
        lowest=lowest,
        by_chance=lowest_by_chance(noise, len(losses), width, num_start, _CHANCE),
        lowest_at=lowest_at,
        steepest_at=slopes.index(max(slopes)) if slopes else 0,
        broken_at=beyond[0] if beyond else (last if ended else None),
    )


def _learnt(looks: Sequence[Look], marks: Marks, per_decade: float) -> Interval | None:
    """Over the decade before the lowest loss and a half behind it, where a model that learns has learnt most."""
    first, last = marks.lowest_at - per_decade, marks.lowest_at + per_decade / 2
    if marks.broken_at is not None:
        last = min(last, marks.broken_at)
    gaps = [look.mismatched - look.loss for look in looks if first <= look.step <= last]
    return mean_interval(gaps, _SURE) if len(gaps) >= _FEWEST_LOOKS else None


def _decided(rates: Sequence[float], marks: Marks, learnt: Interval | None) -> tuple[float | None, str, str]:
    """The suggestion, its reason, and what to try if there is none."""
    fell = f"the loss falls from {marks.start:.4g} to {marks.lowest:.4g}"
    if marks.fall <= max(marks.by_chance, _ROUNDING * abs(marks.start)):
        reason = (
            f"the loss does not fall beyond its noise: by {max(0.0, marks.fall):.2g} at the most, where noise alone "
            f"makes {marks.by_chance:.2g}"
        )
        return None, reason, "look at the data and the loss; a larger --batch-size or more --seeds makes less noise"
    if learnt is not None and learnt.low <= 0:
        reason = (
            f"{fell}, but nothing is learnt of the inputs: on test data the loss with inputs and targets that do not "
            f"belong together is {learnt.mean:+.2g} [{learnt.low:+.2g} to {learnt.high:+.2g}] higher"
        )
        return None, reason, "look at whether targets belong to their inputs; more --seeds tell more surely"
    if marks.broken_at is None:
        reason = f"{fell}, lowest at {rates[marks.lowest_at]:.2g}, and half of that is not lost again up to the end"
        return None, reason, f"go on higher: --highest {rates[-1] * 1e3:.0e}"
    broken = rates[marks.broken_at]
    rate = sqrt(rates[marks.lowest_at] * broken / _BELOW_DIVERGENCE)
    reason = (
        f"{fell} (noise {marks.noise:.2g}), steepest at {rates[marks.steepest_at]:.2g}, lowest at "
        f"{rates[marks.lowest_at]:.2g}; at {broken:.2g} half of that is lost again: the best rate for a whole run is "
        "usually between the lowest place and a tenth of that one, and this is their middle"
    )
    return rounded(rate), reason, ""
