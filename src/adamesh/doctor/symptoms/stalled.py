"""The loss does not move."""

import numpy as np

from adamesh.doctor.commands import compared
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record
from adamesh.doctor.series import spread
from adamesh.train.rules import RULES

__all__ = ["examine"]

_LEAST = 40
"""Losses: a warm-up alone may take 30 steps."""
_PARTS = 5
_SIGMAS = 3.0
_MOVED = 0.03
"""Of the first loss: less is what learning how frequent each class is brings, without a look at the inputs."""


def examine(record: Record) -> Answer:
    """By the losses of the steps, from the first to the last part of the run; one that came down and stays is fine."""
    losses = record.series("loss").finite
    if len(losses) < _LEAST:
        return Unknown(f"{len(losses)} losses are known, and fewer than {_LEAST} tell nothing")
    parts = losses.blocks(_PARTS)
    first, last, start = parts[0].median, parts[-1].median, float(losses.values[0])
    noise = spread(parts[-1].values)
    # The standard error of a median is 1.25 times that of a mean; of a difference of two, sqrt(2) times more.
    sure = _SIGMAS * 1.25 * max(noise, spread(parts[0].values)) * np.sqrt(2 / len(parts[-1]))
    # A run may learn all it can before the first part is over: its first loss then tells.
    moved = first - last > sure or start - last > _SIGMAS * noise
    if moved and max(first, start) - last > _MOVED * abs(start):
        return None
    like_adam = record.config is not None and RULES[record.config.optim.rule].like_adam
    rates = "1e-4,1e-3,1e-2" if like_adam else "1e-2,1e-1,1"
    given = "" if record.config is None or record.config.weights is None else "; it began with weights that were given"
    return Finding(
        saw=f"the loss does not move{given}",
        evidence=[
            f"median {first:.4g} in {parts[0].span()}, {last:.4g} in {parts[-1].span()}, {start:.4g} at the first step",
            f"single losses vary by {noise:.2g}",
        ],
        advice=[
            Advice(
                "try other learning rates, from low to high",
                compared(record, "--over", f"optim.lr={rates}", "--seeds", "1"),
            ),
            Advice("can it learn anything? Train on a single batch, which it should learn by heart"),
            Advice("see that targets belong to inputs, that parameters are not frozen, that the loss depends on them"),
        ],
    )
