"""The run's checkpoints: ``step-00000100`` and so on, the newest named in the file ``latest``.

A name is used once: a run that falls back behind a checkpoint and gets there again writes
``step-00000100.1``. So whoever reads a checkpoint by name never reads a mixture.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn

import adamesh
from adamesh.checkpoint.manifest import MANIFEST
from adamesh.checkpoint.stateful import StatefulOptimizer
from adamesh.errors import CheckpointError
from adamesh.train.files import write_whole
from adamesh.train.workers import Workers

__all__ = ["CheckpointFolder", "CheckpointId", "Loaded"]

_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_NONE_LEFT = (-1, -1)


@dataclass(frozen=True, order=True)
class CheckpointId:
    """The step a checkpoint was taken after, and how often that step had been saved before."""

    step: int
    attempt: int = 0

    @property
    def name(self) -> str:
        return f"step-{self.step:08d}" + (f".{self.attempt}" if self.attempt else "")

    @classmethod
    def parse(cls, name: str) -> "CheckpointId | None":
        """The id of a folder's name; None if it is no checkpoint's."""
        match = _NAME.fullmatch(name)
        return cls(int(match[1]), int(match[2] or 0)) if match else None


@dataclass(frozen=True)
class Loaded:
    """What came out of the newest checkpoint that could be read."""

    saved: CheckpointId
    extra: Mapping[str, Any]
    damaged: list[str]
    """One line for each newer checkpoint that had to be passed over."""


class CheckpointFolder:
    """Saves and loads checkpoints of one run; every method that says so is called by all workers together.

    Only the first worker looks at the folder: others may see a shared file system later than it does.

    Args:
        folder: made if it is not there.
        workers: who takes part.
        keep: how many of the newest checkpoints stay.
    """

    def __init__(self, folder: Path, workers: Workers, keep: int) -> None:
        self._folder = folder
        self._workers = workers
        self._keep = keep
        if workers.is_first:
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, model: nn.Module, optimizer: StatefulOptimizer, extra: Mapping[str, Any]) -> CheckpointId:
        """Write a checkpoint, make it the latest, remove the oldest. Collective."""
        attempt = self._free_attempt(step) if self._workers.is_first else 0
        saved = CheckpointId(step, *self._workers.from_first([attempt]))
        adamesh.save(self._folder / saved.name, model, optimizer, **extra)
        if self._workers.is_first:
            write_whole(self._folder / "latest", f"{saved.name}\n")
            self._prune()
        return saved

    def load_newest(self, model: nn.Module, optimizer: StatefulOptimizer) -> Loaded | None:
        """Load the latest checkpoint, or the one before where that is damaged; None without any. Collective.

        Raises:
            CheckpointError: there are checkpoints, and none can be loaded.
        """
        candidates = self.candidates() if self._workers.is_first else []
        damaged: list[tuple[CheckpointId, CheckpointError]] = []
        for index in count():
            mine = candidates[index] if index < len(candidates) else None
            step, attempt = self._workers.from_first((mine.step, mine.attempt) if mine else _NONE_LEFT)
            if (step, attempt) == _NONE_LEFT:
                break
            saved = CheckpointId(step, attempt)
            try:
                extra = adamesh.load(self._folder / saved.name, model, optimizer)
            except CheckpointError as error:
                damaged.append((saved, error))
                continue
            if self._workers.is_first:
                self._set_aside([bad for bad, _ in damaged])
            return Loaded(saved, extra, [f"{bad.name} cannot be loaded, set aside: {why}" for bad, why in damaged])
        if damaged:
            names = ", ".join(bad.name for bad, _ in damaged)
            raise CheckpointError(
                f"no checkpoint in {self._folder} can be loaded ({names}); the newest: {damaged[0][1]}"
            ) from damaged[0][1]
        return None

    def candidates(self) -> list[CheckpointId]:
        """The checkpoints to try, the latest first.

        What is newer than the latest was not finished; where ``latest`` is lost, or was never written, what
        is finished is known by its manifest.
        """
        ids = sorted(self._ids(), reverse=True)
        try:
            latest = CheckpointId.parse((self._folder / "latest").read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError):
            latest = None
        if latest is None:
            return [saved for saved in ids if self._is_finished(saved)]
        return [saved for saved in ids if saved <= latest]

    def _is_finished(self, saved: CheckpointId) -> bool:
        return (self._folder / saved.name / MANIFEST).exists()

    def _ids(self) -> list[CheckpointId]:
        if not self._folder.is_dir():
            return []
        parsed = (CheckpointId.parse(entry.name) for entry in self._folder.iterdir())
        return [saved for saved in parsed if saved is not None]

    def _free_attempt(self, step: int) -> int:
        taken = {entry.name.removeprefix("damaged-") for entry in self._folder.iterdir()}
        return next(attempt for attempt in count() if CheckpointId(step, attempt).name not in taken)

    def _set_aside(self, ids: list[CheckpointId]) -> None:
        # Only after another one was loaded into the same model: so it is not the model that does not fit.
        for saved in ids:
            (self._folder / saved.name).rename(self._folder / f"damaged-{saved.name}")

    def _prune(self) -> None:
        finished = [saved for saved in self.candidates() if self._is_finished(saved)]
        unfinished = [saved for saved in self._ids() if not self._is_finished(saved)]
        for saved in finished[self._keep :] + unfinished:
            # Renamed first: what is half deleted must not look like a checkpoint.
            (self._folder / saved.name).rename(self._folder / f"deleted-{saved.name}")
        for leftover in self._folder.glob("deleted-*"):
            shutil.rmtree(leftover)
