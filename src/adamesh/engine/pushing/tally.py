"""What became of a worker's pushes, counted chunk by chunk."""

from collections import Counter
from collections.abc import Sequence

from adamesh.engine.meter import PushStats
from adamesh.engine.pushing.letters import Verdict
from adamesh.engine.pushing.passage import Answered

__all__ = ["Tally"]


class Tally:
    """Counts over the life of an optimizer, and the last step's share."""

    def __init__(self) -> None:
        self.last_share = 0.0
        """Of the elements whose answers the last step took, those that were accepted."""
        self.last_squares = 0.0
        """The squared norm of the gradient that they made."""
        self.last_staleness = 0
        """The largest among them."""
        self._verdicts: Counter[Verdict] = Counter()
        self._staleness: Counter[int] = Counter()

    def add(self, answered: Sequence[Answered]) -> None:
        """A step has taken these answers."""
        judged = [each for each in answered if each.answer.verdict != Verdict.NON_FINITE]
        self._verdicts.update(each.answer.verdict for each in answered)
        self._staleness.update(each.answer.staleness for each in judged)
        accepted = sum(each.numel for each in answered if each.answer.verdict == Verdict.ACCEPTED)
        total = sum(each.numel for each in answered)
        self.last_share = accepted / total if total else 0.0
        self.last_squares = sum(each.answer.squares for each in answered)
        self.last_staleness = max((each.answer.staleness for each in judged), default=0)

    def stats(self) -> PushStats:
        """So far."""
        return PushStats(
            accepted_share=self.last_share,
            accepted=self._verdicts[Verdict.ACCEPTED],
            stale=self._verdicts[Verdict.STALE],
            non_finite=self._verdicts[Verdict.NON_FINITE],
            staleness=dict(sorted(self._staleness.items())),
        )
