"""One worker is slower than the others, which wait for it."""

import numpy as np

from adamesh.doctor.commands import again
from adamesh.doctor.finding import Advice, Answer, Finding, Unknown
from adamesh.doctor.record import Record

__all__ = ["examine"]

_LEAST, _FIRST = 30, 5
_SAME = 0.8
"""Of the steps, in which the same worker is the slowest. Of two alike each is in half; 24 of 30 by chance: 1 in 700."""
_RATIO = 1.5
"""To the median of the others: what a busy machine does to one worker for a while is mostly less."""
_LOSS = 0.1
"""Of the time of a step that others wait for it: less is not worth a change."""


def examine(record: Record) -> Answer:
    """By the time that workers took up to ``step()``, waiting left out, which each step's header tells to all."""
    if record.num_workers < 2:
        return None
    who, slowest, rest, steps = record.together(
        "slowest_worker", "work_slowest_s", "work_others_s", "step_s", skip_first=_FIRST
    )
    if len(who) < _LEAST:
        return Unknown(
            f"how long each worker worked is known of {len(who)} steps, and fewer than {_LEAST} tell nothing (where "
            "islands step alone, or workers push, it is not known)"
        )
    names, counts = np.unique(who.values, return_counts=True)
    worker = names[np.argmax(counts)]
    its = who.values == worker
    slow, others, step_s = slowest.values[its], rest.values[its], steps.median
    ratio, waited_s = float(np.median(slow / np.maximum(others, 1e-9))), float(np.median(slow - others))
    if counts.max() < _SAME * len(who) or ratio < _RATIO or waited_s < _LOSS * step_s:
        return None
    return Finding(
        saw=f"worker {worker:.0f} is {ratio:.1f} times as slow as the others, which wait for it",
        evidence=[
            f"it was the slowest in {counts.max()} of {len(who)} steps",
            (
                f"{1e3 * np.median(slow):.0f} ms a step, the others {1e3 * np.median(others):.0f} (medians); "
                f"a step takes {1e3 * step_s:.0f} ms"
            ),
        ],
        advice=[
            Advice("give it less of each batch, by its speed", again(record, "--plan.balance")),
            Advice("let nobody wait: each worker at its own speed", again(record, "--plan.sync", "async-8")),
            Advice("look at that machine: other programs, fewer threads, heat, a slow disk (waiting for data counts)"),
        ],
        causes=("communication",),
    )
