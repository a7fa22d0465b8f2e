"""What a trainer does when workers have been lost, come or gone: on from where all were, or from a checkpoint.

Whenever the optimizer has regrouped, on whatever worker and for whatever reason, the next thing that all workers of the
new epoch do is :meth:`Continuity.reconcile`: some may have accounted for the last step and others not, and a newcomer
knows nothing yet.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from adamesh.errors import CommunicationError, Expelled, QuorumLost, StateLost
from adamesh.optimizer import MeshOptimizer
from adamesh.replicas import broadcast_buffers
from adamesh.train.checkpoints import CheckpointFolder
from adamesh.train.elastic import Departed, Elastic
from adamesh.train.record import Recorder
from adamesh.train.standing import Owed, Standing, Word
from adamesh.train.step import Stepper

__all__ = ["Continuity"]


class Continuity:
    """One worker's.

    Args:
        elastic: its part among workers that come and go.
        standing: where the run stands, as this worker knows it.
        model: whose buffers a newcomer gets.
        optimizer: which regroups.
        stepper: whose samples are cut for the workers that are there.
        recorder: takes down who came and went.
        folder: the run's.
        checkpoints: from which the run goes on if what was lost is held by nobody else.
        tell: accounts for the steps made since workers last talked, given the sums of their shares.
        restore: loads the newest checkpoint. Collective.
    """

    def __init__(
        self,
        elastic: Elastic,
        standing: Standing,
        model: nn.Module,
        optimizer: MeshOptimizer,
        stepper: Stepper,
        recorder: Recorder,
        folder: Path,
        checkpoints: CheckpointFolder,
        tell: Callable[[Sequence[Sequence[float]]], None],
        restore: Callable[[], None],
    ) -> None:
        self.elastic = elastic
        self._standing = standing
        self._model = model
        self._optimizer = optimizer
        self._stepper = stepper
        self._recorder = recorder
        self._folder = folder
        self._checkpoints = checkpoints
        self._tell = tell
        self._restore = restore
        self._knows = not elastic.newcomer
        """This worker knows where the run stands."""

    def enter(self) -> None:
        """As a newcomer: learn where the run stands. Collective with those whose optimizers have let this one in."""
        try:
            self.reconcile()
        except CommunicationError as error:
            self.go_on_after(error)

    def go_on_after(self, error: CommunicationError | StateLost) -> None:
        """Workers were lost outside a step, or more than can be: go on with those who are left. Collective among them.

        Raises:
            Departed: this worker has asked to go.
            Expelled, QuorumLost: it cannot go on.
            StateLost: what is lost is held by nobody else, and there is no checkpoint.
        """
        while True:
            if isinstance(error, Expelled) and self.elastic.leaving:
                raise Departed from error
            if isinstance(error, Expelled | QuorumLost):
                raise error
            try:
                if isinstance(error, StateLost):
                    self._go_back(error)
                else:
                    self._optimizer.regroup(str(error))
                    self.reconcile()
            except (CommunicationError, StateLost) as another:  # while it was under way
                if another is error:
                    raise
                error = another
            else:
                return

    def reconcile(self) -> None:
        """After the optimizer has regrouped: bring everybody to the same place. Collective.

        Raises:
            CommunicationError: another worker was lost meanwhile.
            StateLost: nobody knows where the run stands, and there is no checkpoint.
        """
        elastic, standing = self.elastic, self._standing
        self._stepper.regrouped()
        words = self._say(standing.word() if self._knows else None)
        known = [word for word in words if word is not None]
        elastic.settled()
        if not known:
            self._go_back(StateLost("every worker that knew where the run stands was lost"))
            return
        furthest = max(known, key=lambda word: (word.steps, word.owed is not None))
        telling = [word.untold for word in known if word.steps == furthest.steps and word.untold]
        sums = [[sum(shares) for shares in zip(*step, strict=True)] for step in zip(*telling, strict=False)]
        if len(known) < len(words):
            broadcast_buffers(self._model, elastic.world)
        behind = not self._knows or standing.totals.steps < furthest.steps or len(standing.untold.steps) < len(sums)
        if not behind and sums:
            self._tell(sums)
        elif not behind and standing.owed is None and furthest.owed is not None:
            standing.owed = Owed(**furthest.owed)
        given = max((w for w in self._say(None if behind else standing.word()) if w), key=lambda word: word.steps)
        if behind:
            standing.take_over(given)
        self._knows = True
        self._take_down()
        if elastic.world.size < elastic.bounds.least:
            elastic.await_others(self._optimizer.regroup)
            self.reconcile()

    def _go_back(self, lost: StateLost) -> None:
        """To the newest checkpoint. Collective."""
        if not self._checkpoints.candidates():
            raise lost
        self._knows = False
        self._take_down()
        self._recorder.event(self._standing.totals.steps, "rollback", str(lost))
        self._stepper.regrouped()
        self._restore()
        self._recorder.go_back(self._standing.totals.steps)
        self._knows = True
        self.elastic.settled()

    def _take_down(self) -> None:
        for event in self.elastic.events():
            self._recorder.event(event.step, event.kind, event.message)
        self.elastic.publish(self._folder)

    def _say(self, mine: Word | None) -> list[Word | None]:
        """Everybody's word, by rank. Collective."""
        record = None if mine is None else vars(mine)
        messages = self.elastic.world.exchange(json.dumps(record).encode(), "reconcile")
        found = [json.loads(message) for message in messages]
        return [None if word is None else Word(**word) for word in found]
