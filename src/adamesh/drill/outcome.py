"""How a rehearsed run has ended, beside one without a fault."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adamesh.checkpoint.load import load_model
from adamesh.drill.hits import Hit
from adamesh.drill.names import FaultName
from adamesh.drill.session import Session
from adamesh.errors import CheckpointError
from adamesh.train.checkpoints import CheckpointFolder
from adamesh.train.trained import Trained
from adamesh.train.workers import GroupWorkers

__all__ = ["Ending", "Rehearsal", "compared", "ending"]


@dataclass(frozen=True)
class Ending:
    """What is left of a run."""

    finished: bool
    steps: int = 0
    samples: int = 0
    digest: str = ""
    """Of the ledger: which samples were trained on, in which steps."""
    final_loss: float | None = None
    test: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    workers: int = 0
    rollbacks: int = 0
    """How often it fell back to a checkpoint."""
    steps_lost: int = 0
    """Steps that were made, and made again."""
    checkpoints: int = 0
    """That lie in its folder, all of which can be loaded."""
    refused: Sequence[str] = ()
    """Checkpoints that are complete by their manifest and cannot be loaded: there must be none."""
    last_words: str = ""
    """Of a run that has failed."""


@dataclass(frozen=True)
class Rehearsal:
    """A run with faults of one kind."""

    fault: FaultName
    respawn: bool
    hits: Sequence[Hit]
    ending: Ending
    lost_samples: int
    repeated_samples: int
    same_samples: bool
    """The ledger is that of the run without a fault."""
    difference: float | None
    """Of the final parameters from those of the run without a fault: the norm of the difference over their norm."""
    problem: str = ""
    """What went wrong with the rehearsal itself."""

    @property
    def lost_nothing(self) -> bool:
        """The run came to its end, and every step and sample counted once."""
        return self.ending.finished and self.same_samples and not self.ending.steps_lost and not self.ending.refused


def ending(session: Session, code: int) -> Ending:
    """Look at what a run has left that has ended with an exit code."""
    summary: dict[str, Any] | None = session.summary
    lost = max((worker.steps_lost for worker in session.notes.workers.values()), default=0)
    if code or summary is None or summary["stopped"] == "interrupted":
        return Ending(finished=False, steps_lost=lost, last_words=session.last_words)
    loadable, refused = _checkpoints(session.folder)
    return Ending(
        finished=True,
        steps=summary["steps"],
        samples=summary["ledger"]["samples"],
        digest=summary["ledger"]["digest"],
        final_loss=summary["final_loss"],
        test=summary["eval"],
        seconds=summary["seconds"],
        workers=summary["world_size"],
        rollbacks=sum(event.kind == "rollback" for event in session.events),
        steps_lost=lost,
        checkpoints=loadable,
        refused=refused,
    )


def compared(
    faults: tuple[FaultName, bool],
    hits: Sequence[Hit],
    run: tuple[Path, Ending],
    calm: tuple[Path, Ending],
    problem: str,
) -> Rehearsal:
    """A run with faults beside the one without.

    Args:
        faults: their kind, and whether lost workers came again.
        hits: the faults.
        run: folder and ending.
        calm: those of the run without a fault.
        problem: what went wrong with the rehearsal itself, if anything.
    """
    (folder, end), (calm_folder, calm_end) = run, calm
    more = end.samples - calm_end.samples if end.finished else 0
    same = (end.samples, end.digest) == (calm_end.samples, calm_end.digest)
    apart = _difference(folder, calm_folder) if end.finished else None
    return Rehearsal(*faults, hits, end, max(0, -more), max(0, more), same, apart, problem)


def _difference(folder: Path, calm: Path) -> float:
    mine, its = (Trained(run, "latest").model.state_dict() for run in (folder, calm))
    floating = [name for name, value in its.items() if value.is_floating_point()]
    apart = sum(float((mine[name].double() - its[name].double()).square().sum()) for name in floating)
    size = sum(float(its[name].double().square().sum()) for name in floating)
    return (apart / size) ** 0.5 if size else 0.0


def _checkpoints(run: Path) -> tuple[int, list[str]]:
    """How many of a run's checkpoints can be loaded, and which complete ones cannot."""
    folder, model = run / "checkpoints", Trained(run, "latest").model
    loadable, refused = 0, []
    for one in CheckpointFolder(folder, GroupWorkers(0, 1, group=None), keep=1).candidates():
        try:
            load_model(folder / one.name, model)
            loadable += 1
        except CheckpointError as error:
            refused.append(f"{one.name}: {error}")
    return loadable, refused
