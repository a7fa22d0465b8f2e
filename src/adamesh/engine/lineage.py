"""The engines of one optimizer in a company, epoch by epoch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from adamesh.comm.base import Mesh
from adamesh.comm.company import Company, Formation
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.staged import reaching
from adamesh.engine.engine import Engine
from adamesh.engine.succession import Estate, resume_agreement, succeed, transaction_of
from adamesh.engine.transaction import Transaction
from adamesh.errors import CommunicationError, Expelled, QuorumLost, StateLost

__all__ = ["Lineage", "mesh_of"]


def mesh_of(formation: Formation, gradients: bool) -> Mesh:
    """All workers of an epoch as one island; or, where they do not agree on gradients in every step, an island each."""
    world, alone = formation.world, LocalCommunicator()
    return Mesh(world, replicate=alone if gradients else world, shard=world if gradients else alone)


class Lineage:
    """Keeps the engine of the epoch under way, and leads to the next one's. Building it is collective.

    Args:
        company: who takes part.
        device: where the parameters are.
        build: makes an engine on a mesh in an epoch; with True, of the first worker's values.
        hypers: the parameter groups.
        gradients: workers agree on gradients in every step.
    """

    def __init__(
        self,
        company: Company,
        device: torch.device,
        build: Callable[[Mesh, int, bool], Engine],
        hypers: Sequence[dict[str, Any]],
        gradients: bool,
    ) -> None:
        self._company = company
        self._device = device
        self._build = build
        self._hypers = hypers
        self._gradients = gradients
        self._estate: Estate | None = None
        self._enter_or_regroup(company.formation)

    @property
    def engine(self) -> Engine:
        """That of the epoch under way."""
        assert self._estate is not None
        return self._estate.engine

    @property
    def transaction(self) -> Transaction:
        """What makes steps in the epoch under way."""
        return transaction_of(self.engine)

    def note_made(self) -> None:
        """A step was made in this epoch: nobody needs an earlier engine any more."""
        if self._estate is not None:
            self._estate.earlier = None

    def change(self, reason: str) -> None:
        """Somebody comes or goes, and all have said so to each other: hand over, and regroup. Collective.

        Raises:
            Expelled: this worker has asked to go.
            QuorumLost, StateLost: as `regroup` does.
        """
        if self._estate is not None and self._gradients:
            try:
                self._estate.hand_over(self._company.leaving)
            except CommunicationError as error:  # another one was lost meanwhile: mirrors must do
                reason = str(error)
        self.regroup(reason)

    def regroup(self, reason: str) -> None:
        """Leave the epoch under way and go on with those who are left. Collective among them.

        Raises:
            Expelled, QuorumLost: this worker cannot go on.
            StateLost: what the lost workers held is held by nobody else: load a checkpoint.
        """
        self._enter_or_regroup(None, reason)

    def _enter_or_regroup(self, formation: Formation | None, reason: str = "") -> None:
        while True:
            try:
                self._enter(formation or self._company.regroup(reason))
                return
            except (Expelled, QuorumLost):
                raise
            except CommunicationError as error:  # another one was lost meanwhile
                formation, reason = None, str(error)

    def _enter(self, formation: Formation) -> None:
        formation = replace(formation, world=reaching(formation.world, self._device))
        mesh = mesh_of(formation, self._gradients)
        # Whoever waits for a checkpoint brings nothing. (What a commit left that was cut short is not lost.)
        lost = self._estate is not None and self._estate.is_lost
        old = None if lost else self._estate

        def build(from_first: bool) -> Engine:
            return self._build(mesh, formation.epoch, from_first)

        engine = succeed(formation, old, build, self._hypers, self._gradients)
        # From here on this worker needs nothing of the others that it has not got.
        self._estate = Estate(engine, None if old is None else old.engine)
        if isinstance(engine.transaction.broken, StateLost):
            self._estate.earlier = None
            raise engine.transaction.broken
        if old is not None and not self._gradients:
            resume_agreement(old, engine, self._hypers)
