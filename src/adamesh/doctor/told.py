"""A diagnosis for people, and as plain values."""

import textwrap
from typing import Any

from rich.console import Console
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
        console.print(_wrapped(console, f"not read: {line}"), soft_wrap=True)
    for name, found in diagnosis.findings.items():
        cause = diagnosis.because_of(name)
        console.print()
        console.print(Text(_wrapped(console, f"{name}: {found.saw}"), style="bold"), soft_wrap=True)
        if cause is not None:
            console.print(f"  (most likely a consequence of: {cause})")
        for line in found.evidence:
            console.print(_wrapped(console, line, 2), soft_wrap=True)
        for advice in found.advice if cause is None else ():
            console.print(_wrapped(console, f"try: {advice.what}", 2), soft_wrap=True)
            if advice.command is not None:
                console.print(f"    {advice.command}", soft_wrap=True)
    console.print()
    if diagnosis.healthy:
        console.print(
            Text(_wrapped(console, f"healthy: none of {', '.join(diagnosis.absent)}"), style="bold"), soft_wrap=True
        )
    if diagnosis.unknown and not diagnosis.healthy:
        names = ", ".join(diagnosis.unknown)
        console.print(
            _wrapped(console, f"not known, too little is recorded: {names} (--json says more)"), soft_wrap=True
        )
    for symptom, why in diagnosis.unknown.items() if diagnosis.healthy else ():
        console.print(_wrapped(console, f"not known: {symptom}: {why}"), soft_wrap=True)


def _wrapped(console: Console, line: str, indent: int = 0) -> str:
    """Without spaces at the ends of lines, which rich's padding would leave in what is copied."""
    space = " " * indent
    return textwrap.fill(
        line,
        console.width,
        initial_indent=space,
        subsequent_indent=space,
        break_long_words=False,
        break_on_hyphens=False,
    )
