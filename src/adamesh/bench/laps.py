"""A benchmark whose workers each make laps: how they get their course, and what each found gets back."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adamesh.errors import AdameshError
from adamesh.train.launch import run_workers

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["collected", "leave", "made"]


def made(module: str, course: "DataclassInstance", nproc: int, folder: Path) -> list[list[dict[str, Any]]]:
    """Let workers make the laps of a course; returns each worker's, as they left them.

    Args:
        module: its ``main`` gets the course's file.
        course: what is to be done; a record that JSON can hold.
        nproc: workers.
        folder: where course, laps and logs go.

    Raises:
        AdameshError: a worker failed; one line says which and why.
        KeyboardInterrupt: Ctrl-C.
    """
    file = folder / "course.json"
    file.write_text(json.dumps(asdict(course)), encoding="utf-8")
    outcome = run_workers(module, [str(file)], nproc=nproc, logs=folder, on_stop=lambda: None)
    if outcome.stopped:
        raise KeyboardInterrupt
    if outcome.failure is not None:
        raise AdameshError(f"{outcome.failure.line()}; its log is {outcome.log}")
    return collected(file, nproc)


def collected(course: Path, nproc: int) -> list[list[dict[str, Any]]]:
    """Each worker's laps, as it has left them beside the course's file."""
    return [json.loads(_file_of(course, rank).read_text(encoding="utf-8")) for rank in range(nproc)]


def leave(course: Path, rank: int, laps: "Sequence[DataclassInstance]") -> None:
    """As a worker: leave what was found for whoever started it."""
    _file_of(course, rank).write_text(json.dumps([asdict(lap) for lap in laps]), encoding="utf-8")


def _file_of(course: Path, rank: int) -> Path:
    return course.with_name(f"laps{rank}.json")
