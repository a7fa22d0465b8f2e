"""Most of the time goes into the exchange."""

import numpy as np

from adamesh.doctor.commands import again, compared
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record
from adamesh.doctor.series import Series

__all__ = ["examine"]

_LEAST, _FIRST = 20, 5
"""Steps; and those at the start, in which connections are made and memory is new."""
_SHARE = 0.5
"""Of the time in steps: below, a link however fast does not make training twice as fast."""
_LITTLE, _LITTLE_SHARE = 100_000, 0.8
"""Bytes a step: what so few wait for is less their way, 8 ms at 100 Mbit/s, than a turn at the processor. Small models
on a busy machine waited up to 0.48 of the time for it (docs/doctor.md); over a long way, it is nearly all."""
_LEAST_S = 0.02
"""A step. What is shorter is latency, to which bytes add nothing: the embedded digits wait 3 ms on two free cores."""


def examine(record: Record) -> Answer:
    """By the time that the first worker waited for the exchange, what a slower worker made it wait left out."""
    if record.num_workers < 2:
        return None
    exposed, steps, up, down = record.together("comm_exposed_s", "step_s", "bytes_up", "bytes_down", skip_first=_FIRST)
    if len(exposed) < _LEAST:
        return Unknown(f"{len(exposed)} steps are known, and fewer than {_LEAST} tell nothing")
    own, slowest = record.together("work_s", "work_slowest_s", skip_first=_FIRST)
    told = np.array_equal(own.steps, exposed.steps)
    waited = slowest.values - own.values if told else np.zeros(len(exposed))
    link = Series(exposed.steps, np.clip(exposed.values - waited, 0.0, None))
    # Islands exchange in some steps only, so sums; of parts, the median: a machine that stood still once is no link.
    parts = [(one.values, step.values) for one, step in zip(link.blocks(8), steps.blocks(8), strict=True)]
    share = float(np.median([link_s.sum() / max(step_s.sum(), 1e-9) for link_s, step_s in parts]))
    mean_s = float(np.median([link_s.mean() for link_s, _ in parts]))
    # Islands send in some steps only.
    sent = float(np.mean(up.values + down.values))
    if not share >= (_SHARE if sent >= _LITTLE else _LITTLE_SHARE) or mean_s < _LEAST_S:
        return None
    who = "" if told else " (or one worker is slower: how long each worked is not known where not all step together)"
    return Finding(
        saw=f"training is dominated by communication: {share:.0%} of the time in steps{who}",
        evidence=[
            (
                f"{1e3 * mean_s:.0f} ms of {1e3 * steps.median:.0f} ms a step were spent waiting for the exchange, in "
                f"{exposed.span()}"
            ),
            f"{sent / 1e3:,.0f} kB a step left this worker, {8e-6 * sent / mean_s:.3g} Mbit/s of the waiting",
        ],
        advice=[
            Advice(
                "send less: codecs, and see what they cost in loss",
                compared(record, "--over", "plan.up=exact,int8,int4", "--plan.down", "int4", "--seeds", "1"),
            ),
            Advice("agree more rarely: islands average every 16 steps", again(record, "--plan.sync", "every-16")),
            Advice("more work for the same bytes: a larger batch", again(record, "--batch-size", str(_larger(record)))),
        ],
    )


def _larger(record: Record) -> int:
    now = None if record.config is None else record.config.batch_size
    return 4 * (now or 64)
