"""How well scores tell two classes apart: AUC, precision and recall, over all samples of all workers, exactly."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

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
    """Scores and labels of one evaluation, as they come in on this worker."""

    _scores: list[Tensor] = field(default_factory=list)
    _labels: list[Tensor] = field(default_factory=list)

    def add(self, scores: Tensor, labels: Tensor) -> None:
        """Take in a batch: logits [n], labels 0 or 1 [n]."""
        self._scores.append(scores.detach().float().cpu().reshape(-1))
        self._labels.append(labels.cpu().reshape(-1).float())

    def metrics(self, workers: Workers) -> dict[str, float]:
        """Of all workers' samples; the positive class is predicted where the logit is above 0. Collective."""
        scores = workers.gather(torch.cat(self._scores) if self._scores else torch.empty(0))
        labels = workers.gather(torch.cat(self._labels) if self._labels else torch.empty(0)).bool()
        hits = int((labels & (scores > 0)).sum())
        return {
            "auc": area_under_roc(scores, labels),
            "precision": hits / max(1, int((scores > 0).sum())),
            "recall": hits / max(1, int(labels.sum())),
        }
