"""Gradients that do not reach the first layers."""

import numpy as np

from adamesh.doctor.commands import again
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record

__all__ = ["examine"]

_LEAST = 3
_RATIO = 1e-3
"""First over last weight, root mean square. Healthy models of this package have 0.02 to 3 (docs/doctor.md); a sigmoid
passes on a quarter at most, so five layers of them in a row without normalisation are below this."""


def examine(record: Record) -> Answer:
    """By the gradients of the first and the last weight, in the steps that were looked at."""
    first, last = record.together("grad_rms_first", "grad_rms_last")
    if len(first) < _LEAST:
        return Unknown(
            f"gradients were looked at in {len(first)} steps, and fewer than {_LEAST} tell nothing (every 15th is at "
            "first, then every 60th, where a model has more than one weight matrix)"
        )
    usable = last.values > 0
    first, last = first.where(usable), last.where(usable)
    if len(first) < _LEAST:
        return None
    ratios = first.values / last.values
    ratio = float(np.median(ratios))
    if ratio >= _RATIO:
        return None
    return Finding(
        saw="the gradient vanishes on its way to the first layers, which learn next to nothing",
        evidence=[
            (
                f"the first weight's gradient is {ratio:.1e} times the last one's (root mean square, median of "
                f"{len(first)} steps)"
            ),
            (
                f"{first.values[0]:.1e} against {last.values[0]:.1e} at step {first.steps[0]}, {first.values[-1]:.1e} "
                f"against {last.values[-1]:.1e} at step {first.steps[-1]}"
            ),
        ],
        advice=[
            Advice(
                "change the model: ReLU or GELU for sigmoid and tanh, normalisation between layers, connections "
                "around them, and an initialisation that suits the activation (torch.nn.init.kaiming_normal_)"
            ),
            Advice("clipping does not help: it makes gradients shorter, never longer"),
            Advice("then see whether it has helped, in some hundred steps", again(record, "--steps", "200")),
        ],
        causes=("stalled",),
    )
