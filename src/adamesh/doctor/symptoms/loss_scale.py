"""A loss that is multiplied by far too little or too much."""

import numpy as np

from adamesh.doctor.commands import again
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record
from adamesh.train.rules import RULES

__all__ = ["examine"]

_LEAST = 3
_EPS = 1e-8
"""Of Adam and its kin, where the configuration says nothing else."""
_ABOVE_EPS = 10.0
"""Adam divides by sqrt(v) + eps: with gradients of ten times eps, a tenth of each step is lost to eps."""
_HIGHEST = 1e18
"""The square of 1.8e19 is no float32 number any more, and second moments are squares."""
_MANY_SKIPS = 0.2
"""Of the steps. A scaler that doubles its scale every 2,000 steps skips one in 2,000."""


def examine(record: Record) -> Answer:
    """By the sizes of gradients, and by a gradient scaler's scale where the metrics have one (``loss_scale``)."""
    scale = record.series("loss_scale").finite
    if len(scale) >= 2 and (found := _scaler(record)) is not None:
        return found
    ends = [record.series(key).finite.values for key in ("grad_rms_first", "grad_rms_last")]
    if min(map(len, ends)) < _LEAST:
        return None if len(scale) >= 2 else Unknown(f"gradients were looked at in {min(map(len, ends))} steps")
    largest = float(max(end.max() for end in ends))
    config = record.config
    if config is not None and not RULES[config.optim.rule].like_adam:
        return None
    eps = _EPS if config is None or config.optim.eps is None else config.optim.eps
    if largest < _ABOVE_EPS * eps:
        saw, lost = "gradients are lost beside eps", f"optim.eps is {eps:g}, which Adam adds to their size"
        fix = Advice("multiply the loss, or take a smaller eps", again(record, "--optim.eps", f"{largest * 1e-4:.0e}"))
    elif largest > _HIGHEST:
        saw, lost = "gradients are so large that their squares overflow", f"above {_HIGHEST:g} in float32"
        fix = Advice("divide the loss: take the mean over a batch where it is a sum")
    else:
        return None
    return Finding(
        saw=saw,
        evidence=[
            f"the largest of the first and the last weight's is {largest:.1e} (root mean square), over all steps",
            lost,
        ],
        advice=[fix],
        causes=("stalled",),
    )


def _scaler(record: Record) -> Finding | None:
    """A scale that keeps falling, or that costs many steps."""
    scale = record.series("loss_scale").finite
    falls = int(np.count_nonzero(np.diff(scale.values) < 0))
    skipped = sum(1 for line in record.lines if line.get("skipped"))
    if skipped < _MANY_SKIPS * len(record.lines) and scale.values[-1] >= 1:
        return None
    return Finding(
        saw="the loss scale does not settle: scaled gradients overflow again and again",
        evidence=[
            (
                f"scale {scale.values[0]:g} at step {scale.steps[0]}, {scale.values[-1]:g} at step {scale.steps[-1]}, "
                f"lowered {falls} times"
            ),
            f"{skipped} of {len(record.lines)} steps skipped",
        ],
        advice=[
            Advice("train in bfloat16, which needs no loss scale", again(record, "--precision", "bf16")),
            Advice("if it is below 1, look for what is not finite whatever the scale: a NaN in the data, a root of 0"),
        ],
        causes=("stalled", "skipped steps"),
    )
