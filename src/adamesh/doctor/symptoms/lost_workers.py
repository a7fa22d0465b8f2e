"""Workers died, and the run went on without them."""

from adamesh.doctor.events import as_evidence
from adamesh.doctor.finding import Advice, Answer, Finding
from adamesh.doctor.record import Record

__all__ = ["examine"]


def examine(record: Record) -> Answer:
    """By the events of an elastic run; who has left in good order is not lost."""
    lost = record.events_of("worker-lost")
    if not lost:
        return None
    return Finding(
        saw=f"{len(lost)} worker{'s were' if len(lost) > 1 else ' was'} lost",
        evidence=as_evidence(lost),
        advice=[
            Advice(
                "see how they ended: the newest folder in logs/ has a file for each; if nobody killed those that were "
                "killed, the system did, because memory ran out"
            )
        ],
    )
