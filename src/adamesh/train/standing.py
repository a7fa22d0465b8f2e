"""Where a run stands: all that its workers must agree on, beside the model and the optimizer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adamesh.data.ledger import Ledger
from adamesh.train.best import Best
from adamesh.train.run import Totals
from adamesh.train.settings import RunConfig
from adamesh.train.stopping import Plateau
from adamesh.train.untold import Untold

__all__ = ["Owed", "Reason", "Standing", "Word"]

Reason = Literal["finished", "tolerance", "time", "early-stop", "interrupted"]


@dataclass
class Owed:
    """What is to be done between two steps."""

    reason: Reason | None
    """Why the last step was the last."""
    evaluated: bool = False
    improved: bool = False
    """It has been evaluated, and is the best so far."""


@dataclass(frozen=True)
class Word:
    """What one worker knows of it, as JSON can bring it to another."""

    saved: Mapping[str, Any]
    """What a checkpoint would keep."""
    untold: Sequence[Sequence[float]]
    """Its shares of steps that are made and not accounted for."""
    owed: Mapping[str, Any] | None
    """What is to be done between steps, and is not."""

    @property
    def steps(self) -> int:
        """That it has accounted for."""
        return int(self.saved["totals"]["steps"])


class Standing:
    """One worker's record of it; the same on all workers between two steps.

    Args:
        config: the run's.
    """

    def __init__(self, config: RunConfig) -> None:
        self.totals = Totals()
        self.ledger = Ledger()
        self.plateau = Plateau(config.tolerance, config.tolerance_steps)
        self.best = Best(config.best_metric, config.best_is, config.patience)
        self.untold = Untold()
        self.owed: Owed | None = None
        """What is to be done between steps, and is not yet."""
        self._config = config

    def saved(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "totals": self.totals.saved(),
            "ledger": self.ledger.saved(),
            "recent_grad_norms": self.plateau.recent,
            "best": self.best.state,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take what `saved` gave; whatever has happened since is forgotten."""
        config = self._config
        self.totals = Totals.restored(saved["totals"])
        self.ledger = Ledger.restored(saved["ledger"])
        self.plateau = Plateau(config.tolerance, config.tolerance_steps, saved["recent_grad_norms"])
        self.best = Best(config.best_metric, config.best_is, config.patience, saved["best"])
        self.untold, self.owed = Untold(), None

    def word(self) -> Word:
        """For workers that do not know."""
        untold = [list(map(float, step.shares)) for step in self.untold.steps]
        return Word(self.saved(), untold, None if self.owed is None else vars(self.owed))

    def take_over(self, word: Word) -> None:
        """Take another worker's."""
        self.restore(word.saved)
        self.owed = None if word.owed is None else Owed(**word.owed)
