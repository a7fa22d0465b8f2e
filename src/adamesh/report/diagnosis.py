"""What the doctor says of a run, for its page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adamesh.doctor.examination import diagnose
from adamesh.doctor.record import read_record
from adamesh.doctor.told import to_json

__all__ = ["diagnosis"]

_MOST_BYTES = 64_000_000
"""Of metrics; the doctor looks at all lines at once."""


def diagnosis(folder: Path) -> Mapping[str, Any] | None:
    """As `adamesh doctor --json` tells it; None: there is too much to read for a page that may be asked for often."""
    metrics = folder / "metrics.jsonl"
    if metrics.is_file() and metrics.stat().st_size > _MOST_BYTES:
        return None
    record = read_record(folder)
    return to_json(record, diagnose(record))
