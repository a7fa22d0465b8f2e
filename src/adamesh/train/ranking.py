"""How well scores tell two classes apart: AUC, log loss, precision and recall, over all workers' samples, exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from adamesh.tasks.base import Scored
from adamesh.train.workers import Workers

__all__ = ["Ranking", "area_under_roc"]


def area_under_roc(scores: Tensor, labels: Tensor) -> float:
    """The chance that a positive sample scores above a negative one, ties counting half (Hanley & McNeil 1982).

    NaN if one of the classes is empty: there is nothing to rank.

    Args:
        scores: any floating dtype, shape [n].
        labels: 0 or 1, shape [n].
    """
    positive = labels.bool()
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return float("nan")
    _, place, counts = scores.double().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()  # tied scores share the mean of the ranks they take up
    ranks = (last - (counts - 1) / 2)[place]
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


@dataclass
class Ranking:
    """Scores and labels of one evaluation, by name, as they come in on this worker."""

    _scores: dict[str, list[Tensor]] = field(default_factory=dict)
    _labels: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, scored: Scored | Mapping[str, Scored]) -> None:
        """Take in a batch, as `BinaryTask.scores` returns it."""
        pairs = scored if isinstance(scored, Mapping) else {"": scored}
        for name, (scores, labels) in pairs.items():
            self._scores.setdefault(name, []).append(scores.detach().float().cpu().reshape(-1))
            self._labels.setdefault(name, []).append(labels.cpu().reshape(-1).float())

    def add_nothing(self, scored: Scored | Mapping[str, Scored]) -> None:
        """Learn the names from a batch that does not count; every worker needs them."""
        pairs = scored if isinstance(scored, Mapping) else {"": scored}
        self.add({name: (scores[:0], labels[:0]) for name, (scores, labels) in pairs.items()})

    def metrics(self, workers: Workers) -> dict[str, float]:
        """Of all workers' samples; the positive class is predicted where the logit is above 0. Collective."""
        found: dict[str, float] = {}
        for name in sorted(self._scores):
            scores = workers.gather(torch.cat(self._scores[name]))
            labels = workers.gather(torch.cat(self._labels[name]))
            prefix = f"{name}_" if name else ""
            found |= {f"{prefix}{metric}": value for metric, value in _metrics(scores, labels).items()}
        return found


def _metrics(scores: Tensor, labels: Tensor) -> dict[str, float]:
    predicted, positive = scores > 0, labels.bool()
    hits = int((positive & predicted).sum())
    # Without any sample torch's mean is NaN, as is the area.
    log_loss = functional.binary_cross_entropy_with_logits(scores.double(), labels.double())
    return {
        "auc": area_under_roc(scores, labels),
        "log_loss": float(log_loss),
        "precision": hits / max(1, int(predicted.sum())),
        "recall": hits / max(1, int(positive.sum())),
    }
