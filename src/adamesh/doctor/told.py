"""A diagnosis for people, and as plain values."""

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from adamesh.doctor.examination import Diagnosis
from adamesh.doctor.record import Record

__all__ = ["print_diagnosis", "to_json"]

_STATES = {
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
    "unfinished": "has not ended: it still goes on, or was killed",
}


def to_json(record: Record, diagnosis: Diagnosis) -> dict[str, Any]:
    """Everything that is printed, and which symptoms were looked for in vain."""
    return {
        "run": str(record.folder),
        "state": record.state,
        "steps": record.steps,
        "workers": record.num_workers,
        "healthy": diagnosis.healthy,
        "findings": [
            {
                "symptom": name,
                "saw": found.saw,
                "evidence": list(found.evidence),
                "because_of": diagnosis.because_of(name),
                "advice": [{"what": advice.what, "command": advice.command} for advice in found.advice],
            }
            for name, found in diagnosis.findings.items()
        ],
        "not_there": list(diagnosis.absent),
        "unknown": dict(diagnosis.unknown),
        "unreadable": list(record.unreadable),
    }


def print_diagnosis(console: Console, record: Record, diagnosis: Diagnosis) -> None:
    """What was seen, the evidence, what to try, the command to type. Commands stay on one line, to be copied."""
    workers = "1 worker" if record.num_workers == 1 else f"{record.num_workers} workers"
    console.print(f"{record.folder}: {record.steps:,} steps on {workers}; {_STATES[record.state]}")
    for line in record.unreadable:
        console.print(f"not read: {line}")
    for name, found in diagnosis.findings.items():
        cause = diagnosis.because_of(name)
        console.print()
        console.print(Text(f"{name}: {found.saw}", style="bold"))
        if cause is not None:
            console.print(_indented(f"(most likely a consequence of: {cause})"))
        for line in found.evidence:
            console.print(_indented(line))
        for advice in found.advice if cause is None else ():
            console.print(_indented(f"try: {advice.what}"))
            if advice.command is not None:
                console.print(f"    {advice.command}", soft_wrap=True)
    console.print()
    if diagnosis.healthy:
        console.print(Text(f"healthy: none of {_listed(diagnosis)}", style="bold"))
    for symptom, why in diagnosis.unknown.items():
        console.print(f"not known: {symptom}: {why}")


def _listed(diagnosis: Diagnosis) -> str:
    return ", ".join(diagnosis.absent)


def _indented(line: str) -> Padding:
    return Padding(line, (0, 0, 0, 2), expand=False)
