"""A run whose workers come and go: how they enter it, who is there, and who has been."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adamesh.comm.base import Communicator
from adamesh.company.events import Change
from adamesh.company.members import Members, forget_members, read_members, write_members
from adamesh.company.workers import Workers as Company
from adamesh.entry import enter
from adamesh.errors import ConfigurationError, QuorumLost
from adamesh.tasks.base import Splits, Task
from adamesh.train.bounds import Bounds
from adamesh.train.evaluate import to_device
from adamesh.train.events import Event

__all__ = ["Departed", "Elastic", "elastic_here", "warm_up"]

_AWAIT_S = 60.0
_LOOK_S = 0.05


class Departed(Exception):
    """This worker has asked to go, and the others go on without it."""


def elastic_here(bounds: str | None) -> "Elastic | None":
    """This worker's place in the company that its environment names, if the run's workers come and go.

    Raises:
        ConfigurationError: workers come and go, and nothing says how they meet; or the run has as many as it may.
        QuorumLost: nobody let this newcomer in.
    """
    if bounds is None:
        return None
    limits, environment = Bounds.parse(bounds), os.environ
    if "ADAMESH_TOKEN" not in environment:
        raise ConfigurationError(
            f"elastic = {bounds} and ADAMESH_TOKEN is not set: workers that come and go know each other by a secret of "
            "their run. Start them with adamesh train, or set ADAMESH_TOKEN to the same random string for all"
        )
    tell: list[Change] = []
    if not environment.get("ADAMESH_JOIN"):
        return Elastic(enter(environment, None, tell.append), limits, tell, newcomer=False)
    folder = Path(environment["ADAMESH_RUN"])
    known = read_members(folder)
    if known is None:
        raise ConfigurationError(
            f"{folder}: no worker of the run is there to join; go on with: adamesh resume {folder}"
        )
    if len(known.addresses) >= limits.most:
        raise ConfigurationError(
            f"{folder}: the run has {len(known.addresses)} workers, and elastic = {bounds} allows no more"
        )
    return Elastic(enter(environment, known.addresses, tell.append), limits, tell, newcomer=True)


def warm_up(task: Task[Any], splits: Splits[Any], device: torch.device) -> None:
    """Let torch load all it needs for a step before others wait for this worker: one sample, there and back."""
    model = task.build_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    task.loss(model, to_device(splits.train.batch(torch.arange(min(2, len(splits.train)))), device)).backward()
    optimizer.step()


class Elastic:
    """One worker's part in a run whose workers come and go.

    Args:
        company: its place among them.
        bounds: how few and how many there may be.
        changes: who has come and gone and was not yet spoken of; the company adds to it.
        newcomer: the run went on before this worker came.
    """

    def __init__(self, company: Company, bounds: Bounds, changes: list[Change], *, newcomer: bool) -> None:
        self.company = company
        self.bounds = bounds
        self.newcomer = newcomer
        self.leaving = False
        """This worker has been asked to go, alone."""
        self._changes = changes
        self._epoch = -1 if newcomer else company.formation.epoch

    @property
    def world(self) -> Communicator:
        """All workers of the epoch under way."""
        return self.company.formation.world

    @property
    def changed(self) -> bool:
        """The optimizer has regrouped, and nobody has spoken of it yet."""
        return self.company.formation.epoch != self._epoch

    def leave(self) -> None:
        """Go at the end of the step; the others go on."""
        self.leaving = True
        self.company.leave()

    def publish(self, folder: Path) -> None:
        """Let newcomers know whom to ask."""
        if self.world.rank == 0:
            addresses = [(member.host, member.port) for member in self.company.members]
            epoch = self.company.formation.epoch
            write_members(folder, Members(os.environ["ADAMESH_TOKEN"], epoch, addresses))

    def conclude(self, folder: Path) -> None:
        """The run has ended: there is nobody to ask any more."""
        if self.world.rank == 0:
            forget_members(folder)

    def settled(self) -> None:
        """Everybody has spoken of the change."""
        self._epoch = self.company.formation.epoch

    def events(self) -> list[Event]:
        """Who has come and gone since this was last asked, in words."""
        events = [_in_words(change) for change in self._changes]
        self._changes.clear()
        return events

    def await_others(self, regroup: Callable[[str], None]) -> None:
        """With fewer workers than there must be: wait until others come.

        Raises:
            QuorumLost: nobody came.
        """
        deadline = time.monotonic() + _AWAIT_S
        while not self.company.restless:
            if time.monotonic() >= deadline:
                raise QuorumLost(
                    f"{self.world.size} workers are left, at least {self.bounds.least} must be there (elastic = "
                    f"{self.bounds.least}:{self.bounds.most}), and nobody came within {_AWAIT_S:.0f} s"
                )
            time.sleep(_LOOK_S)
        regroup("fewer workers than there must be")


_KINDS = {"joined": "worker-joined", "left": "worker-left"}


def _in_words(change: Change) -> Event:
    verb = change.how if change.how in _KINDS else f"lost ({change.how})"
    message = f"worker {change.name} {verb} at step {change.step}, {change.left} there now, {change.seconds:.3f} s"
    return Event(change.step, _KINDS.get(change.how, "worker-lost"), message)
