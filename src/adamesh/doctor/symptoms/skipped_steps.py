"""The guard passed over steps whose loss or gradient was beyond the usual."""

from adamesh.doctor.commands import again
from adamesh.doctor.finding import Advice, Answer, Finding
from adamesh.doctor.record import Record
from adamesh.doctor.symptoms.nan_batches import _SKIPPED

__all__ = ["examine"]


def examine(record: Record) -> Answer:
    """By the events; batches that are not finite are `nan_batches`' matter."""
    skips = [event for event in record.events_of("skip") if not any(word in event.message for word in _SKIPPED)]
    if not skips:
        return None
    steps = ", ".join(str(event.step) for event in skips[:10]) + (", ..." if len(skips) > 10 else "")
    threshold = 12.0 if record.config is None else record.config.guard.threshold
    return Finding(
        saw=f"the guard passed over {len(skips)} step{'s' * (len(skips) > 1)} that were beyond the usual",
        evidence=[f"skipped: step {steps}", *(f"step {event.step}: {event.message}" for event in skips[:3])],
        advice=[
            Advice("look at the samples that are named: outliers, wrong targets"),
            Advice(
                "if they are good, and many, let the guard be more patient, or lower the learning rate",
                again(record, "--plan.guard", "--guard.threshold", f"{2 * threshold:g}"),
            ),
        ],
        causes=("rollbacks", "failure"),
    )
