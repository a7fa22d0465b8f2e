"""What became of samples whose gradients were pushed, by worker."""

from collections import Counter
from dataclasses import dataclass, field

from adamesh.engine.meter import PushStats

__all__ = ["Fate", "PushingReport", "WorkerSamples"]


@dataclass(frozen=True)
class WorkerSamples:
    """What became of the samples that one worker has trained on; those of a push that some owners accepted and others
    did not count in part.
    """

    accepted: float
    stale: float
    non_finite: float


@dataclass(frozen=True)
class PushingReport:
    """How pushes fared since the run was started, or resumed."""

    workers: list[WorkerSamples]
    staleness: dict[str, int]
    """How many pushed chunks had had how many updates since they were read, over all workers."""

    def rows(self) -> list[tuple[str, str]]:
        """(label, value) for people."""
        rows = []
        for rank, samples in enumerate(self.workers):
            total = samples.accepted + samples.stale + samples.non_finite
            share = samples.accepted / total if total else 0.0
            bad = f", {samples.non_finite:,.0f} not finite" if samples.non_finite else ""
            rows.append((f"worker {rank}", f"{total:,.0f} samples, {share:.1%} accepted{bad}"))
        chunks = sum(self.staleness.values())
        shares = {far: count / chunks for far, count in self.staleness.items() if count >= 0.005 * chunks}
        histogram = "  ".join(f"{far}: {share:.0%}" for far, share in shares.items())
        farthest = max(map(int, self.staleness), default=0)
        return [*rows, ("staleness", histogram), ("largest staleness", str(farthest))]


@dataclass
class Fate:
    """One worker's samples so far."""

    accepted: float = 0.0
    stale: float = 0.0
    non_finite: float = 0.0
    _seen: Counter[str] = field(default_factory=Counter)
    """Chunks by verdict, as the optimizer has counted them after the last step."""

    def count(self, samples: int, pushes: PushStats) -> None:
        """A step has been made on so many samples."""
        now = Counter(stale=pushes.stale, non_finite=pushes.non_finite)
        rejected = now - self._seen
        self._seen = now
        total = rejected.total()
        self.accepted += samples * (pushes.accepted_share if total else 1.0)
        if total:
            lost = samples * (1.0 - pushes.accepted_share) / total
            self.stale += lost * rejected["stale"]
            self.non_finite += lost * rejected["non_finite"]
