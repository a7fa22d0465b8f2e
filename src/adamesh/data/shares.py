"""How the batch of a step is cut among the workers: evenly, or by how fast they are."""

from collections.abc import Sequence

from adamesh.data.sampler import share, weighted_shares
from adamesh.membership.balance import Balancer

__all__ = ["Shares"]


class Shares:
    """The cut of every step's batch among the workers of one epoch of a company; the same on every rank.

    Args:
        batch_size: samples of a whole batch; the last of an epoch may be short.
        num_workers: among how many.
        balance: whether by speed.
        most_samples: a worker's most of a whole batch, with ``balance``.
    """

    def __init__(
        self, batch_size: int, num_workers: int, *, balance: bool = False, most_samples: int | None = None
    ) -> None:
        self._num_workers = num_workers
        self._balancer = Balancer(batch_size, num_workers, most_samples) if balance and num_workers > 1 else None

    def counts(self, total: int) -> list[int]:
        """Each worker's samples of a batch of ``total``, by rank."""
        if self._balancer is not None:
            return weighted_shares(total, self._balancer.counts)
        spans = (share(total, rank, self._num_workers) for rank in range(self._num_workers))
        return [stop - start for start, stop in spans]

    def span(self, total: int, rank: int) -> tuple[int, int]:
        """Start and stop of one worker's part."""
        counts = self.counts(total)
        start = sum(counts[:rank])
        return start, start + counts[rank]

    def observe(self, total: int, seconds: Sequence[float]) -> None:
        """A step was made with this cut of a batch of ``total``.

        Args:
            total: samples.
            seconds: that each worker took for its own, waiting left out, by rank; the same numbers on every rank.
        """
        if self._balancer is not None:
            self._balancer.observe(self.counts(total), seconds)
