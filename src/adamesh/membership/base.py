"""Who takes part in a step, with what weight. The membership of a run that never changes its workers."""

from dataclasses import dataclass

__all__ = ["Membership"]


@dataclass(frozen=True)
class Membership:
    """The workers of one epoch of a run, world ranks 0 to ``num_members - 1``, each of weight ``1 / num_members``.

    ``epoch`` rises whenever the members change; every header carries it, so that a message of an earlier epoch
    is never taken for one of this.
    """

    num_members: int
    epoch: int = 0

    @property
    def weight(self) -> float:
        """The share of each worker's gradient in the mean."""
        return 1.0 / self.num_members
