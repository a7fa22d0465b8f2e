"""The loss goes up instead of down."""

import numpy as np

from adamesh.doctor.commands import again, compared
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record
from adamesh.doctor.series import Series, spread
from adamesh.doctor.symptoms.nan_batches import first_not_finite, is_sudden

__all__ = ["examine"]

_LEAST = 20
"""Losses: with fewer, single batches decide."""
_ABOVE_START = 0.2
"""Of the first loss. A model that has learnt nothing stays at it; a fifth above, it is worse than untrained."""
_LOST = 0.5
"""Of what had been learnt, when the loss rises again. Training losses move back by less when rates or data change."""
_PEAK, _RECOVERED = 5.0, 0.5
"""A peak of five times the first loss that half of it is never reached after: parameters were thrown somewhere else."""
_SIGMAS = 4.0
"""Differences must be above this many standard deviations of a single loss."""
_CONSEQUENCES = ("explosion", "stalled", "dead units", "vanishing gradients", "failure")


def examine(record: Record) -> Answer:
    """By the losses of the steps."""
    at = first_not_finite(record)
    losses = record.series("loss").finite
    if at is not None and not is_sudden(record, at):
        told = [f"loss or gradient not finite at step {at}"]
        if len(losses):
            told.append(f"the {len(losses)} losses before: {losses.values[0]:.4g} first, {losses.values[-1]:.4g} last")
        return _finding(record, f"training blew up at step {at}", told)
    if len(losses) < _LEAST:
        return Unknown(f"{len(losses)} losses are known, and fewer than {_LEAST} tell nothing")
    blocks = losses.blocks(10)
    start, end = float(losses.values[0]), blocks[-1].median
    best = min(blocks, key=lambda block: block.median)
    noise = _SIGMAS * spread(blocks[-1].values)
    ends = f"median loss {end:.4g} in {blocks[-1].span()}, {start:.4g} at the first step"
    if end - start > max(_ABOVE_START * abs(start), noise):
        return _finding(record, "the loss ends above where it began", [ends, _peak(losses)])
    learnt = start - best.median
    if learnt > noise and end - best.median > max(_LOST * learnt, noise):
        low = f"it was {best.median:.4g} in {best.span()}"
        return _finding(record, "the loss came down and went up again", [ends, low, _peak(losses)])
    if start > 0 and losses.values.max() > _PEAK * start and end > _RECOVERED * start:
        return _finding(record, "the loss was thrown up and has not recovered", [_peak(losses), ends])
    return None


def _peak(losses: Series) -> str:
    top = int(np.argmax(losses.values))
    return f"the highest was {losses.values[top]:.4g} at step {losses.steps[top]}"


def _finding(record: Record, saw: str, evidence: list[str]) -> Finding:
    config = record.config
    lr = None if config is None else config.optim.lr
    known = [] if lr is None else [f"optim.lr is {lr:g}, of {config.optim.described()}"] if config is not None else []
    lower = () if lr is None else (f"{lr / 10:g}", f"{lr / 100:g}", f"{lr / 1000:g}")
    advice = [
        Advice(
            "find the learning rate: most often it is too high",
            compared(record, "--over", f"optim.lr={','.join(lower)}", "--seeds", "1") if lower else None,
        ),
        Advice(
            "clip gradients and warm up longer, which lets a model bear a higher rate at the start",
            again(record, "--plan.max-grad-norm", "1.0", "--schedule.warmup-steps", str(_warmup(record))),
        ),
    ]
    return Finding(saw, [*evidence, *known], advice, causes=_CONSEQUENCES)


def _warmup(record: Record) -> int:
    now = None if record.config is None else record.config.schedule.warmup_steps
    return max(100, 2 * (now or 0))
