import pytest

from adamesh.errors import ConfigurationError
from adamesh.train.best import Best


def fed(best: Best, values: list[float]) -> list[bool]:
    return [best.improves({best.metric: value}, step) for step, value in enumerate(values)]


def test_a_lower_loss_is_better_and_a_higher_accuracy():
    assert fed(Best("loss", None, None), [3.0, 2.0, 2.5, 2.0, 1.0]) == [True, True, False, False, True]
    assert fed(Best("accuracy", None, None), [0.1, 0.3, 0.2, 0.3, 0.4]) == [True, True, False, False, True]
    assert fed(Best("f1", "highest", None), [0.1, 0.3]) == [True, True]


def test_nan_is_never_better_and_never_stands_in_the_way():
    nan = float("nan")
    assert fed(Best("loss", None, None), [nan, 2.0, nan, 1.0]) == [False, True, False, True]


def test_patience_counts_evaluations_since_the_best_also_over_a_resume():
    best = Best("loss", None, 3)
    fed(best, [1.0, 2.0, 2.0])
    assert not best.exhausted
    resumed = Best("loss", None, 3, best.state)
    assert (resumed.value, resumed.step) == (1.0, 0)
    resumed.improves({"loss": 1.5}, 3)
    assert resumed.exhausted


def test_another_metric_after_a_resume_starts_afresh():
    best = Best("loss", None, 1)
    fed(best, [1.0])
    assert Best("accuracy", None, 1, best.state).value is None


def test_a_metric_that_the_task_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(ConfigurationError, match=r"best_metric = 'acc'.*loss, accuracy"):
        Best("acc", None, None).improves({"loss": 1.0, "accuracy": 0.5}, 1)
