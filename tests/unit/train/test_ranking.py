import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from adamesh.train.ranking import Ranking, area_under_roc
from adamesh.train.workers import GroupWorkers


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
    metrics = ranking.metrics(GroupWorkers(0, 1, group=None))
    assert metrics["precision"] == 2 / 3
    assert metrics["recall"] == 2 / 3


def test_named_scores_have_metrics_of_their_own_over_their_own_samples():
    scores, labels = torch.tensor([2.0, 1.0, -1.0, 0.5]), torch.tensor([1, 0, 1, 1])
    some = torch.tensor([True, True, False, False])
    ranking = Ranking()
    for part in torch.arange(4).split(3):
        ranking.add({"": (scores[part], labels[part]), "some": (scores[part][some[part]], labels[part][some[part]])})
    metrics = ranking.metrics(GroupWorkers(0, 1, group=None))
    assert metrics["auc"] == pytest.approx(1 / 3)
    assert metrics["some_auc"] == 1
    assert metrics["log_loss"] == pytest.approx(float(binary_cross_entropy_with_logits(scores, labels.float())))
    assert metrics["some_log_loss"] == pytest.approx(
        float(binary_cross_entropy_with_logits(scores[:2], labels[:2].float()))
    )


def test_a_name_without_samples_is_known_and_has_no_area_and_no_loss():
    ranking = Ranking()
    ranking.add_nothing({"cold": (torch.tensor([2.0]), torch.tensor([1]))})
    metrics = ranking.metrics(GroupWorkers(0, 1, group=None))
    assert math.isnan(metrics["cold_auc"])
    assert math.isnan(metrics["cold_log_loss"])
    assert metrics["cold_recall"] == 0
