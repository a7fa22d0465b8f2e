"""Steps wait for their data."""

import numpy as np

from adamesh.doctor.commands import again
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record

__all__ = ["examine"]

_LEAST, _FIRST = 20, 5
_SHARE = 0.2
"""Of the time in steps: a loader that never kept anybody waiting would make training faster by a quarter."""
_LEAST_S = 1e-3
"""A step; what is shorter is the thread's turn, not the data's."""


def examine(record: Record) -> Answer:
    """By the time that the first worker waited for its samples; when the run has ended, all workers' mean too."""
    waits, steps = record.together("data_wait_s", "step_s", skip_first=_FIRST)
    everybody = record.summary.get("data_wait_share") or 0.0
    if len(waits) < _LEAST:
        return Unknown(f"waiting is known of {len(waits)} steps, and fewer than {_LEAST} tell nothing")
    parts = [(wait.values, step.values) for wait, step in zip(waits.blocks(8), steps.blocks(8), strict=True)]
    share = float(np.median([wait_s.sum() / max(step_s.sum(), 1e-9) for wait_s, step_s in parts]))
    wait_s = float(np.median([wait_s.mean() for wait_s, _ in parts]))
    mine = share >= _SHARE and wait_s >= _LEAST_S
    if not mine and everybody < _SHARE:
        return None
    evidence = [f"{1e3 * wait_s:.0f} ms of {1e3 * steps.median:.0f} ms a step ({share:.0%}), in {waits.span()}"]
    if record.summary:
        evidence.append(f"{everybody:.0%} of the time in steps over all workers (summary.json)")
    prefetch = 2 if record.config is None else record.config.prefetch
    return Finding(
        saw="steps wait for data" if mine else "steps wait for data, on other workers than the first",
        evidence=[*evidence, f"prefetch is {prefetch}"],
        advice=[
            Advice(
                "prepare more steps ahead, which helps where single batches take long",
                again(record, "--prefetch", str(max(8, 4 * prefetch))),
            ),
            Advice(
                "make batch() of the training data faster, which is what helps where all of them do: decode once and "
                "keep it, read from a nearer disk, do less for each sample; one thread a worker prepares batches"
            ),
        ],
        causes=("stragglers",),
    )
