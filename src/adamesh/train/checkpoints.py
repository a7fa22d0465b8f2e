"""The run's checkpoints: ``step-00000100`` and so on, the newest named in the file ``latest``.

A name is used once, and ``names`` remembers those that are gone: a run that falls back behind a checkpoint and gets
there again writes ``step-00000100.1``. So whoever reads a checkpoint by name never reads a mixture, and a worker that
was taken for dead and goes on writing never writes into another one's.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import FileIO
from itertools import count
from pathlib import Path
from typing import Any

from torch import nn

import adamesh
from adamesh.checkpoint.manifest import MANIFEST
from adamesh.checkpoint.saver import Saver
from adamesh.checkpoint.stateful import StatefulOptimizer
from adamesh.errors import AdameshError, CheckpointError
from adamesh.train.files import append_whole, write_whole
from adamesh.train.workers import Workers

__all__ = ["CheckpointFolder", "CheckpointId", "Loaded"]

_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")
_NONE_LEFT = (-1, -1)
_NAMES = "names"


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
        behind: write them while training goes on.
    """

    def __init__(self, folder: Path, workers: Workers, keep: int, *, behind: bool = False) -> None:
        self._folder = folder
        self._workers = workers
        self._keep = keep
        self._behind = behind
        self._saver: Saver | None = None
        self._failures: list[str] = []
        self._last = CheckpointId(0)
        """The one that was begun last."""
        if workers.is_first:
            folder.mkdir(parents=True, exist_ok=True)

    def attend(self, model: nn.Module, optimizer: StatefulOptimizer) -> None:
        """Take part, from the beginning, in what others do about saves that they began before this worker came."""
        if self._behind:
            self._saver = self._saver or Saver(model, optimizer)

    def save(self, step: int, model: nn.Module, optimizer: StatefulOptimizer, extra: Mapping[str, Any]) -> CheckpointId:
        """Write a checkpoint, make it the latest, remove the oldest. Collective.

        Behind training, this only begins it, and waits for the one before: what went wrong with that is then among
        the :meth:`failures`.

        Args:
            step: it is taken after.
            model: always the same one.
            optimizer: always the same one.
            extra: for :attr:`Loaded.extra`.

        Raises:
            CheckpointError: it cannot be written, or not be begun; on every worker.
        """
        try:
            self.finish()
        except CheckpointError as error:
            self._failures.append(str(error))
        saved = self._new_id(step)
        folder = self._folder / saved.name
        try:
            if self._behind:
                self.attend(model, optimizer)
                assert self._saver is not None
                self._saver.begin(folder, extra, lambda: self._completed_behind(saved))
            else:
                adamesh.save(folder, model, optimizer, **extra)
        except CheckpointError:
            self._remove_unfinished(saved)
            raise
        if self._workers.is_first and not self._behind:
            self._completed(saved)
        self._last = saved
        return saved

    def finish(self) -> None:
        """Wait until what has begun is complete. Collective.

        Raises:
            CheckpointError: it could not be written; on every worker.
        """
        if self._saver is None:
            return
        try:
            self._saver.wait()
        except CheckpointError:
            # Nobody writes to it any more, and what there is of it takes room that the next one may need.
            self._remove_unfinished(self._last)
            raise

    def close(self) -> None:
        """Write to the end what this worker has begun, without the others: for a run that ends in an error."""
        if self._saver is not None:
            self._saver.close()

    def failures(self) -> list[str]:
        """What went wrong behind training since this was last asked, as far as this worker knows it by now."""
        told, self._failures = self._failures, []
        return told

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

        What is finished is known by its manifest; what is not newer than ``latest`` was, and has lost it where it
        has none.
        """
        ids = sorted(self._ids(), reverse=True)
        try:
            latest = CheckpointId.parse((self._folder / "latest").read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError):
            latest = None
        return [saved for saved in ids if self._is_finished(saved) or (latest is not None and saved <= latest)]

    def _is_finished(self, saved: CheckpointId) -> bool:
        return (self._folder / saved.name / MANIFEST).exists()

    def _ids(self) -> list[CheckpointId]:
        if not self._folder.is_dir():
            return []
        parsed = (CheckpointId.parse(entry.name) for entry in self._folder.iterdir())
        return [saved for saved in parsed if saved is not None]

    def _new_id(self, step: int) -> CheckpointId:
        """An id that none had before, written down. Collective."""
        attempt, problem = -1, ""
        if self._workers.is_first:
            try:
                attempt = self._free_attempt(step)
                with FileIO(self._folder / _NAMES, "a") as file:
                    append_whole(file, CheckpointId(step, attempt).name)
            except (OSError, AdameshError) as error:
                attempt, problem = -1, f" ({error})"
        [attempt] = self._workers.from_first([attempt])
        if attempt < 0:
            raise CheckpointError(
                f"no checkpoint can be begun in {self._folder}{problem}; those before are still valid. Free space, or "
                "see whether the first worker may write there"
            )
        return CheckpointId(step, attempt)

    def _free_attempt(self, step: int) -> int:
        taken = {entry.name.removeprefix("damaged-") for entry in self._folder.iterdir()}
        if (self._folder / _NAMES).exists():
            taken |= {*(self._folder / _NAMES).read_text(encoding="utf-8", errors="replace").split()}
        return next(attempt for attempt in count() if CheckpointId(step, attempt).name not in taken)

    def _completed(self, saved: CheckpointId) -> None:
        write_whole(self._folder / "latest", f"{saved.name}\n")
        self._prune(saved)

    def _completed_behind(self, saved: CheckpointId) -> None:
        # The checkpoint is complete and is found without `latest`: what fails now must not call it a failure.
        try:
            self._completed(saved)
        except (OSError, AdameshError) as error:
            self._failures.append(f"{saved.name} is complete; after it: {error}")

    def _set_aside(self, ids: list[CheckpointId]) -> None:
        # Only after another one was loaded into the same model: so it is not the model that does not fit.
        for saved in ids:
            (self._folder / saved.name).rename(self._folder / f"damaged-{saved.name}")

    def _prune(self, saved: CheckpointId) -> None:
        finished = [old for old in self.candidates() if self._is_finished(old)]
        # Newer ones may be somebody's who took this worker for dead, and goes on without it.
        unfinished = [old for old in self._ids() if old < saved and not self._is_finished(old)]
        self._remove(finished[self._keep :] + unfinished)

    def _remove_unfinished(self, failed: CheckpointId) -> None:
        """After a save that failed, on the first worker: its remains, if there are any."""
        if self._workers.is_first and (self._folder / failed.name).is_dir() and not self._is_finished(failed):
            try:
                self._remove([failed])
            except OSError as error:
                self._failures.append(f"the remains of {failed.name} cannot be removed: {error}")

    def _remove(self, ids: Iterable[CheckpointId]) -> None:
        for old in ids:
            # Renamed first: what is half deleted must not look like a checkpoint.
            (self._folder / old.name).rename(self._folder / f"deleted-{old.name}")
        for leftover in self._folder.glob("deleted-*"):
            shutil.rmtree(leftover)
