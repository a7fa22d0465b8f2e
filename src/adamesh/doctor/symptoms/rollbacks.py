"""The run went back to an earlier state."""

from adamesh.doctor.commands import again
from adamesh.doctor.events import as_evidence
from adamesh.doctor.finding import Advice, Answer, Finding
from adamesh.doctor.record import Record

__all__ = ["examine"]


def examine(record: Record) -> Answer:
    """By the events: the guard's, those of damaged checkpoints, and those of workers whose state was lost."""
    backs = record.events_of("rollback")
    if not backs:
        return None
    lr = None if record.config is None else record.config.optim.lr
    return Finding(
        saw=f"the run was rolled back {'once' if len(backs) == 1 else f'{len(backs)} times'}",
        evidence=as_evidence(backs),
        advice=[
            Advice(
                "if steps could not be made: lower the learning rate, or look at the samples that events.jsonl names",
                None if lr is None else again(record, "--optim.lr", f"{lr / 3:.2g}", "--plan.guard"),
            ),
            Advice(
                "if a checkpoint was damaged: look at the disk; if workers were lost: keep a second copy of the state"
            )
            if record.config is None or record.config.elastic is None
            else Advice("if workers were lost: keep more copies of the state", again(record, "--plan.redundancy", "3")),
        ],
    )
