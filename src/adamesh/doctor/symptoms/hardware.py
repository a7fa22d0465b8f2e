"""A worker's processor or memory cannot be trusted."""

from adamesh.doctor.events import as_evidence
from adamesh.doctor.finding import Advice, Answer, Finding
from adamesh.doctor.record import Record

__all__ = ["examine"]


def examine(record: Record) -> Answer:
    """By the guard's events: samples that were fine when another worker computed them, parameters that changed."""
    found = record.events_of("bad-hardware", "replica-repaired")
    if not found:
        return None
    return Finding(
        saw="a worker computed what another did not, or its parameters changed by themselves",
        evidence=as_evidence(found),
        advice=[
            Advice("leave that worker's machine out and test its memory and processor"),
            Advice("see that no code of yours writes to parameters on some workers only"),
        ],
    )
