"""One worker's part of one save, in a thread of its own: no collective happens here, so nobody has to be alive.

Every worker but the first writes its files and then, in one atomic step, a record of them. The first one's thread
waits for all records and commits the manifest; it stops waiting once the workers have met, as what is not there then
never comes.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from adamesh.checkpoint.disk import Disk
from adamesh.checkpoint.generations import commit, record_name, told, with_shares
from adamesh.checkpoint.manifest import Manifest, read_manifest
from adamesh.checkpoint.share import Share, write_file
from adamesh.errors import CheckpointError

__all__ = ["Writing"]

_LOOK_EVERY_S = 0.05


class Writing:
    """Begins at once.

    Args:
        disk: how files are written.
        folder: where to.
        files: file -> key -> tensor, left alone by everybody until :meth:`wait_written` has returned.
        share: what this worker says about them, but for the files.
        manifest: but for what workers write.
        place: this worker's rank, and the number of workers; the first one commits.
        completed: called by the first worker's thread when the checkpoint is complete.
    """

    def __init__(
        self,
        disk: Disk,
        folder: Path,
        files: Mapping[str, Mapping[str, Tensor]],
        share: Share,
        manifest: Manifest,
        place: tuple[int, int],
        completed: Callable[[], None],
    ) -> None:
        self.rank, self._size = place
        self.name = f"{folder.name}, number {manifest.generation}"
        """The same on all workers that take part in this save."""
        self.share = share
        self.error: BaseException | None = None
        """What ended the thread."""
        self._disk = disk
        self._folder = folder
        self._files = files
        self._manifest = manifest
        self._completed = completed
        self._told: dict[int, Share] = {}
        """Shares that their workers have told of, as other machines may see a new file late."""
        self._written = threading.Event()
        self._all_met = threading.Event()
        # A daemon: a process that ends does not wait for workers that it will never hear of.
        self._thread = threading.Thread(target=self._run, name=f"checkpoint {self.name}", daemon=True)
        self._thread.start()

    @property
    def commits(self) -> bool:
        """Whether this worker is the one that makes the checkpoint complete."""
        return self.rank == 0

    @property
    def under_way(self) -> bool:
        return self._thread.is_alive()

    def is_complete(self) -> bool:
        """Whether the checkpoint is on the disk, whole, as far as this worker's machine sees it."""
        try:
            return read_manifest(self._folder).generation == self._manifest.generation
        except CheckpointError:
            return False

    def wait_written(self) -> None:
        """Wait until this worker's share is on the disk, or could not be written."""
        self._written.wait()
        if self.error is not None and not isinstance(self.error, Exception):
            raise self.error

    def failure(self) -> CheckpointError | None:
        """What went wrong so far, as it is told."""
        return told(self.error, self._folder) if isinstance(self.error, Exception) else None

    def conclude(self, shares: Mapping[int, Share]) -> CheckpointError | None:
        """Wait for the end, now that no more shares will come; returns why the checkpoint is not complete, if so."""
        self._told.update(shares)
        self._all_met.set()
        self._thread.join()
        self.wait_written()
        return self.failure()

    def leave(self, patience_s: float) -> None:
        """Wait for this worker's share, and on the first worker a while for those of the others; raises nothing."""
        self._written.wait()
        self._thread.join(patience_s)
        self._all_met.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for file, tensors in self._files.items():
                self.share.files.append(write_file(self._disk, self._folder / file, tensors))
            if not self.commits:
                record = self._record(self.rank)
                draft = record.with_suffix(".draft")
                self._disk.write_text(draft, self.share.dumps())
                self._disk.replace(draft, record)
            self._written.set()
            if self.commits:
                commit(self._folder, with_shares(self._manifest, self._all_shares()), self._disk)
                self._completed()
        except BaseException as error:  # kept for the training thread, which is told when it asks
            self.error = error
        finally:
            self._written.set()

    def _all_shares(self) -> list[Share]:
        shares = [self.share]
        while len(shares) < self._size:
            rank, last_look = len(shares), self._all_met.is_set()
            file = self._record(rank)
            if rank in self._told:
                shares.append(self._told[rank])
            elif file.exists():
                shares.append(Share.loads(file.read_text(), file))
            elif last_look:
                raise CheckpointError(
                    f"{self._folder} is not complete: worker {rank} was lost, or failed, before it had written its "
                    "share. What was there before is still valid"
                )
            else:
                self._all_met.wait(_LOOK_EVERY_S)
        return shares

    def _record(self, rank: int) -> Path:
        return self._folder / record_name(self._manifest.generation, rank, self._size)
