import torch

from adamesh.data.draws import uniform


def test_a_samples_draws_depend_on_its_index_and_the_seed_alone():
    indices = torch.tensor([7, 0, 2**40, 3])
    drawn = uniform(5, indices, 4)
    for row, index in zip(drawn, indices, strict=True):
        assert torch.equal(uniform(5, index.reshape(1), 4)[0], row)
    assert torch.equal(uniform(5, indices, 2), drawn[:, :2])
    assert not torch.equal(uniform(6, indices, 4), drawn)


def test_draws_are_even_and_unrelated_between_neighbours():
    drawn = uniform(0, torch.arange(20_000), 3)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts = torch.histc(drawn.float(), bins=10, min=0, max=1)
    assert (counts / counts.mean() - 1).abs().max() < 0.05
    correlations = torch.corrcoef(torch.cat([drawn.T, drawn.roll(1, 0).T]))
    assert (correlations - torch.eye(6)).abs().max() < 0.03
