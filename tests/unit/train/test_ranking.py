import math

import torch

from adamesh.train.ranking import Ranking, area_under_roc
from adamesh.train.workers import Workers


def test_the_area_is_the_share_of_pairs_in_the_right_order_and_ties_count_half():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (40,), generator=generator).float()
    labels = torch.randint(0, 2, (40,), generator=generator)
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    expected = ((pairs > 0).double() + 0.5 * (pairs == 0)).mean()
    assert math.isclose(area_under_roc(scores, labels), float(expected))


def test_without_one_of_the_classes_there_is_no_area():
    assert math.isnan(area_under_roc(torch.tensor([1.0, 2.0]), torch.tensor([1, 1])))


def test_precision_and_recall_count_logits_above_zero_as_positive():
    ranking = Ranking()
    ranking.add((torch.tensor([2.0, 1.0, -1.0]), torch.tensor([1, 0, 1])))
    ranking.add((torch.tensor([0.5]), torch.tensor([1])))
    metrics = ranking.metrics(Workers(0, 1, group=None))
    assert metrics["precision"] == 2 / 3
    assert metrics["recall"] == 2 / 3
