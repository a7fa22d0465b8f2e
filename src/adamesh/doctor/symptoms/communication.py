"""Most of the time goes into the exchange."""

import numpy as np

from adamesh.doctor.commands import again, compared
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record

__all__ = ["examine"]

_LEAST, _FIRST = 20, 5
"""Steps; and those at the start, in which connections are made and memory is new."""
_SHARE = 0.6
"""Of the time in steps. Small models on a machine that other programs keep busy were seen to wait up to 0.48 of it for
their turn (docs/doctor.md); a link that matters costs more."""
_LEAST_S = 0.02
"""A step. What is shorter is latency, to which bytes add nothing: the embedded digits wait 3 ms on two free cores."""


def examine(record: Record) -> Answer:
    """By the time that the first worker waited for the exchange, what a slower worker made it wait left out."""
    if record.num_workers < 2:
        return None
    exposed = record.series("comm_exposed_s", skip_first=_FIRST)
    if len(exposed) < _LEAST:
        return Unknown(f"{len(exposed)} steps are known, and fewer than {_LEAST} tell nothing")
    step_s = record.series("step_s", skip_first=_FIRST)
    own, slowest = (record.series(key, skip_first=_FIRST) for key in ("work_s", "work_slowest_s"))
    told = len(own) == len(slowest) == len(exposed)
    waited = slowest.values - own.values if told else np.zeros(len(exposed))
    link = np.clip(exposed.values - waited, 0.0, None)
    # Islands exchange in some steps only, so sums; of parts, the median: a machine that stood still once is no link.
    parts = [np.array(cut) for cut in np.array_split(np.arange(len(link)), 8) if len(cut)]
    share = float(np.median([link[part].sum() / step_s.values[part].sum() for part in parts]))
    mean_s = float(np.median([link[part].mean() for part in parts]))
    if not share >= _SHARE or mean_s < _LEAST_S:
        return None
    # Where islands exchange now and then, a step's own bytes say nothing of the others.
    sent = float(np.mean(record.series("bytes_up").values + record.series("bytes_down").values))
    who = "" if told else " (or one worker is slower: how long each worked is not known where not all step together)"
    return Finding(
        saw=f"training is dominated by communication: {share:.0%} of the time in steps{who}",
        evidence=[
            (
                f"{1e3 * mean_s:.0f} ms of {1e3 * step_s.median:.0f} ms a step were spent waiting for the exchange, in "
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
