"""``adamesh.Saver``: checkpoints that are written while training goes on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import nn

from adamesh.checkpoint.disk import Disk
from adamesh.checkpoint.save import bring
from adamesh.checkpoint.share import Share
from adamesh.checkpoint.snapshot import Snapshot
from adamesh.checkpoint.stateful import StatefulOptimizer
from adamesh.checkpoint.writing import Writing
from adamesh.errors import CheckpointError

__all__ = ["Saver"]

_PATIENCE_S = 2.0


class Saver:
    """Saves as `adamesh.save` does, but writes behind training. One save is under way at a time.

    Training waits only while this worker's share is copied to memory of the CPU, which later saves use again: 12 bytes
    a parameter for Adam in float32, divided by the number of workers. A thread writes it. A checkpoint is complete,
    and takes the place of the one before in its folder, when all workers have written their shares; a worker that is
    lost before leaves the one before.

        with adamesh.Saver(model, optimizer) as saver:
            for step, batch in enumerate(batches):
                ...
                if step % 1000 == 0:
                    saver.save("checkpoint", step=step)

    At the end of the ``with`` block the last save is waited for. Whoever does without it calls `wait` at the
    end, or the last checkpoint may not be complete when the process ends.

    Args:
        model: as for `adamesh.save`.
        optimizer: as for `adamesh.save`.
        disk: how files are written; not given: durably.
    """

    def __init__(self, model: nn.Module, optimizer: StatefulOptimizer, disk: Disk | None = None) -> None:
        self._model = model
        self._optimizer = optimizer
        self._disk = Disk() if disk is None else disk
        self._snapshot = Snapshot()
        self._writing: Writing | None = None

    def save(self, path: str | Path, **extra: Any) -> None:
        """Begin a save, after the one before it is complete. Collective; all workers give the same folder.

        Args:
            path: the folder; made if it is not there, on a disk that all workers see.
            extra: anything that JSON can hold, given back by `adamesh.load`; the first worker's.

        Raises:
            CheckpointError: the save before this one failed, or this one cannot begin; on every worker. Nothing was
                begun, and the next call begins anew.
            StateLost, PeerLost, CommunicationTimeout: as `adamesh.save`.
        """
        self.begin(Path(path), extra, lambda: None)

    def begin(self, folder: Path, extra: Mapping[str, Any], completed: Callable[[], None]) -> None:
        """`save`, with something to do in the first worker's thread when the checkpoint is complete."""
        self._optimizer.refuse_if_broken()
        self.wait()
        world, share = self._optimizer.mesh.world, Share.empty()
        self._snapshot.begin()
        manifest = bring(self._disk, folder, self._model, self._optimizer, extra, share, self._snapshot.put)
        self._snapshot.finish()
        place = (world.rank, world.size)
        self._writing = Writing(self._disk, folder, self._snapshot.files, share, manifest, place, completed)

    def wait(self) -> None:
        """Wait until the last save is complete. Collective.

        Workers may have come and gone since it began.

        Raises:
            CheckpointError: it failed; on every worker. What was there before stays loadable, and the next call
                does not raise this again.
            PeerLost, CommunicationTimeout: a worker was lost meanwhile; call it again with those who are left.
        """
        world, mine = self._optimizer.mesh.world, self._writing
        own: CheckpointError | None = None
        message: dict[str, Any] = {}
        if mine is not None:
            mine.wait_written()
            own = mine.failure()
            message = {"save": mine.name, "rank": mine.rank, "commits": mine.commits, "error": own and str(own)}
            message |= {} if own else {"share": mine.share.dumps()}
        said = [json.loads(text) for text in world.exchange(json.dumps(message).encode(), "save")]
        answer: dict[str, Any] = {}
        if mine is not None and mine.commits:
            ours = [m for m in said if m.get("save") == mine.name and "share" in m]
            own = mine.conclude({m["rank"]: Share.loads(m["share"], Path()) for m in ours})
            answer = {"save": mine.name, "error": own and str(own)}
        elif mine is not None and _stands_in(said, mine.name) == world.rank and mine.is_complete():
            # The worker that was to complete it did so, and was lost later.
            answer = {"save": mine.name, "error": None}
        answers = [json.loads(text) for text in world.exchange(json.dumps(answer).encode(), "save")]
        self._writing = None
        failed = _first_failure(said, answers)
        if failed is not None:
            rank, reason = failed
            raise own if own is not None and rank == world.rank else CheckpointError(reason)

    @property
    def busy(self) -> bool:
        """Whether this worker's thread is still at work; the first worker's is until the checkpoint is complete."""
        return self._writing is not None and self._writing.under_way

    @property
    def failure(self) -> CheckpointError | None:
        """What has gone wrong with the last save as far as this worker knows, before `wait` raises it."""
        return None if self._writing is None or self._writing.under_way else self._writing.failure()

    def close(self) -> None:
        """Write to the end what this worker has begun, without the others: for a program that ends in an error.

        The checkpoint is complete if all workers do. The first one waits for the others for 2 s more than it needs
        itself.
        """
        if self._writing is not None:
            self._writing.leave(_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        else:
            self.close()


def _stands_in(said: list[dict[str, Any]], name: str) -> int | None:
    """Who looks whether a save is complete, if the worker that was to complete it is gone."""
    takers = [rank for rank, message in enumerate(said) if message.get("save") == name]
    return None if any(said[rank]["commits"] for rank in takers) else takers[0]


def _first_failure(said: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[int, str] | None:
    """On which worker and why a save that was under way failed, the same on every worker; None if none did."""
    for name in sorted({message["save"] for message in said if message}):
        for rank, message in [*enumerate(said), *enumerate(answers)]:
            if message.get("save") == name and message["error"] is not None:
                return rank, f"on worker {rank}: {message['error']}"
        if not any(answer.get("save") == name for answer in answers):
            return -1, f"the checkpoint {name} was never complete: the worker that was to complete it is gone"
    return None
