import pytest
import torch

from adamesh.tasks.catalog import find_task
from adamesh.tasks.movielens_deepfm import MovieLensDeepFM

GLOBAL = "movielens-deepfm-global"


def loaded(name):
    task = find_task(name)
    splits = task.load_data(None, seed=0)
    torch.manual_seed(0)
    return task, splits, task.build_model()


@pytest.fixture
def trained():
    """The task, a model after a few steps, and the test data."""
    task, splits, model = loaded("movielens-deepfm")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for indices in torch.randperm(4000).split(500):
        task.loss(model, splits.train.batch(indices)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return task, model.eval(), splits.test


def test_each_of_the_two_models_gets_the_gradient_of_its_own_log_loss_alone():
    task, splits, model = loaded("movielens-deepfm")
    model.eval()  # no dropout: the same logits each time
    batch = splits.train.batch(torch.arange(64))
    task.loss(model, batch).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters()}
    for index in (0, 1):
        model.zero_grad()
        logits = model(*batch[:2])[index]
        torch.nn.functional.binary_cross_entropy_with_logits(logits, batch[2]).backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is None) == (name.split(".")[0] != ("deepfm", "baseline")[index]), name
            if parameter.grad is not None:
                torch.testing.assert_close(parameter.grad, together[name])


def test_the_loss_that_is_reported_is_deepfm_s(trained):
    task, model, test = trained
    batch = test.batch(torch.arange(50))
    logits, baseline = model(*batch[:2])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch[2])
    torch.testing.assert_close(task.loss(model, batch), expected)
    assert not torch.equal(logits, baseline)


def test_scores_are_of_deepfm_and_of_the_baseline(trained):
    task, model, test = trained
    batch = test.batch(torch.arange(50))
    scored = task.scores(model, batch)
    assert sorted(scored) == ["", "baseline"]
    for name, logits in zip(("", "baseline"), model(*batch[:2]), strict=True):
        assert torch.equal(scored[name][0], logits)
        assert torch.equal(scored[name][1], batch[2])


def test_a_model_before_its_data_is_a_mistake():
    with pytest.raises(AssertionError, match="load_data comes first"):
        MovieLensDeepFM().build_model()


def test_cold_and_warm_ratings_are_scored_apart():
    task, splits, model = loaded(GLOBAL)
    fields, genres, labels = splits.test.batch(torch.arange(6))
    fields = fields.clamp(min=1)
    fields[0, 0] = 0  # an unknown user
    fields[2, 1] = 0  # an unknown item
    scored = task.scores(model, (fields, genres, labels))
    assert sorted(scored) == ["", "baseline", "cold", "cold_baseline", "warm", "warm_baseline"]
    torch.testing.assert_close(scored["cold"][0], scored[""][0][[0, 2]])
    torch.testing.assert_close(scored["warm_baseline"][1], labels[[1, 3, 4, 5]])


def test_generated_ratings_too_have_newcomers_among_those_that_come_last():
    sources = [loaded(name)[1] for name in ("movielens-deepfm", GLOBAL)]
    cold = [splits.test.num_cold() for splits in sources]
    assert cold[0] == 0
    assert 0 < cold[1] < len(sources[1].test)
    assert f"{cold[1]:,} of them of users or items that training has not seen" in sources[1].source
