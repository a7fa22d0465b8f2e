"""The run ended with an error."""

from adamesh.doctor.commands import resumed, shown
from adamesh.doctor.finding import Advice, Answer, Finding
from adamesh.doctor.record import Record

__all__ = ["examine"]


def examine(record: Record) -> Answer:
    """By what the workers' logs end with."""
    words = record.last_words
    if words is None:
        return None
    where = "before the first step" if words.step is None else f"in step {words.step}"
    return Finding(
        saw=f"the run failed {where}: {words.kind}",
        evidence=[words.message, f"all of it in {shown(words.log)}"],
        advice=[Advice("when the reason is gone, go on from the newest checkpoint", resumed(record))],
    )
