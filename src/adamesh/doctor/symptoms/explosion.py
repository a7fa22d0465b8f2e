"""Gradients that are many times what they were."""

import numpy as np

from adamesh.doctor.commands import again
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record
from adamesh.doctor.series import Series

__all__ = ["examine"]

_LEAST = 30
_EARLY, _WINDOW = 20, 100
"""Steps: those at the beginning, and those before each one."""
_FACTOR = 10.0
"""What the guard calls beyond the usual, and of both medians: near the end of a healthy run norms are small, and one
hard sample is many times their median without being more than gradients were at the beginning."""


def examine(record: Record) -> Answer:
    """By the norms of the steps' mean gradients, before clipping."""
    norms = record.series("grad_norm").finite
    skipped = {line["step"] for line in record.lines if line.get("skipped")}
    norms = norms.where(np.array([step not in skipped for step in norms.steps], dtype=bool))
    if len(norms) < _LEAST:
        return Unknown(f"{len(norms)} gradient norms are known, and fewer than {_LEAST} tell nothing")
    early = float(np.median(norms.values[:_EARLY]))
    spikes = _spikes(norms, early)
    clip = None if record.config is None else record.config.plan.max_grad_norm
    if not len(spikes) or clip is not None:
        return None  # what is clipped cannot throw the parameters away
    top = int(np.argmax(spikes.values))
    times = "once" if len(spikes) == 1 else f"in {len(spikes)} of {len(norms)} steps"
    return Finding(
        saw=f"the gradient exploded {times}",
        evidence=[
            f"norm {spikes.values[top]:.3g} at step {spikes.steps[top]}, the largest",
            f"median {early:.3g} in the first {_EARLY} steps, {norms.median:.3g} in all",
            f"first at step {spikes.steps[0]}",
        ],
        advice=[
            Advice(
                "clip to about what is usual, by the exact global norm",
                again(record, "--plan.max-grad-norm", f"{norms.median:.2g}"),
            ),
            Advice("skip such steps, and name the samples that they came of", again(record, "--plan.guard")),
        ],
    )


def _spikes(norms: Series, early: float) -> Series:
    """The steps whose norm is beyond the usual of the beginning and of the steps before."""
    chosen = np.zeros(len(norms), dtype=bool)
    candidates = np.flatnonzero(norms.values > _FACTOR * early)
    for number in candidates[candidates >= _EARLY // 2]:
        recent = norms.values[max(0, number - _WINDOW) : number]
        # Where the norm has been high for long, each step is still beyond what it was at the beginning.
        usual = min(float(np.median(recent)), early) if number > _WINDOW else float(np.median(recent[:_EARLY]))
        chosen[number] = norms.values[number] > _FACTOR * usual
    return norms.where(chosen)
