"""Checkpoints could not be written."""

from adamesh.doctor.commands import again
from adamesh.doctor.events import as_evidence
from adamesh.doctor.finding import Advice, Answer, Finding
from adamesh.doctor.record import Record

__all__ = ["examine"]


def examine(record: Record) -> Answer:
    """By the events."""
    failed = record.events_of("checkpoint-failed")
    if not failed:
        return None
    return Finding(
        saw=f"{len(failed)} checkpoint{'s' * (len(failed) > 1)} could not be written",
        evidence=as_evidence(failed),
        advice=[Advice("make room, or keep fewer of them", again(record, "--keep-checkpoints", "1"))],
    )
