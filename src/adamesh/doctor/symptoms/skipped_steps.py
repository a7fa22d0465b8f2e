"""The guard passed over steps whose loss or gradient was beyond the usual."""

from adamesh.doctor.commands import again
from adamesh.doctor.events import as_evidence, steps_of
from adamesh.doctor.finding import Advice, Answer, Finding
from adamesh.doctor.record import Record
from adamesh.doctor.symptoms.nan_batches import NOT_FINITE

__all__ = ["examine"]


def examine(record: Record) -> Answer:
    """By the events; batches that are not finite are `nan_batches`' matter."""
    skips = [event for event in record.events_of("skip") if not any(word in event.message for word in NOT_FINITE)]
    if not skips:
        return None
    threshold = 12.0 if record.config is None else record.config.guard.threshold
    return Finding(
        saw=f"the guard passed over {len(skips)} step{'s' * (len(skips) > 1)} that were beyond the usual",
        evidence=[f"skipped: {steps_of(skips)}", *as_evidence(skips)],
        advice=[
            Advice("look at the samples that are named: outliers, wrong targets"),
            Advice(
                "if they are good, and many, let the guard be more patient, or lower the learning rate",
                again(record, "--plan.guard", "--guard.threshold", f"{2 * threshold:g}"),
            ),
        ],
        causes=("rollbacks", "failure"),
    )
