import itertools
from typing import Any

import pytest
import torch

from adamesh.models.deepfm import DeepFM, LogisticRegression, pairwise


def batch(n=7):
    generator = torch.Generator().manual_seed(0)
    fields = torch.stack([torch.randint(0, size, (n,), generator=generator) for size in (5, 9, 3)], dim=1)
    genres = torch.tensor([[1, 3, 2], [2, 0, 0], [0, 0, 0]]).repeat(3, 1)[:n]
    return fields, genres


def test_the_second_order_term_is_the_sum_over_pairs_of_fields():
    vectors = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = itertools.combinations(range(5), 2)
    explicit = sum((vectors[:, i] * vectors[:, j]).sum(dim=1) for i, j in pairs)
    torch.testing.assert_close(pairwise(vectors), explicit)


def test_deepfm_is_its_first_order_plus_all_pairs_plus_the_network():
    torch.manual_seed(0)
    model: Any = DeepFM((5, 9, 3), num_genres=4, dim=6, hidden=(8,)).double()
    torch.nn.init.normal_(model.linear.weights.fields[0].weight)
    fields, genres = batch()
    vectors = model.embeddings(fields, genres)
    assert vectors.shape == (7, 4, 6)
    pairs = itertools.combinations(range(4), 2)
    explicit = sum((vectors[:, i] * vectors[:, j]).sum(dim=1) for i, j in pairs)
    rest = model.linear(fields, genres) + model.deep(vectors)[:, 0]
    torch.testing.assert_close(model(fields, genres), rest + explicit)


def test_a_sample_s_genres_count_by_their_mean_and_none_at_all_as_zeros():
    torch.manual_seed(0)
    tables: Any = DeepFM((5,), num_genres=4, dim=2).embeddings
    table = tables.genres.weight
    vectors = tables(torch.zeros(3, 1, dtype=torch.int64), torch.tensor([[1, 3, 2], [2, 0, 0], [0, 0, 0]]))[:, 1]
    torch.testing.assert_close(vectors, torch.stack([table[1:4].mean(0), table[2], torch.zeros(2)]))


def test_the_unknown_say_nothing_before_they_are_trained():
    torch.manual_seed(0)
    model: Any = DeepFM((5, 9), num_genres=0)
    vectors = model.embeddings(torch.tensor([[0, 0], [1, 1]]), torch.zeros(2, 0, dtype=torch.int64))
    assert (vectors[0] == 0).all()
    assert (vectors[1] != 0).all()


def test_logistic_regression_is_a_linear_model_of_one_hot_features():
    torch.manual_seed(0)
    model = LogisticRegression((5, 9, 3), num_genres=4, scale=3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    fields, genres = batch()
    one_hot = [torch.nn.functional.one_hot(f, size) for f, size in zip(fields.unbind(1), (5, 9, 3), strict=True)]
    many_hot = torch.nn.functional.one_hot(genres, 4).sum(1)
    many_hot[:, 0] = 0
    shares = many_hot / many_hot.sum(1, keepdim=True).clamp(min=1)
    features = torch.cat([*one_hot, shares], dim=1).float()
    weights = torch.cat([table.weight for table in [*model.weights.fields, model.weights.genres]])
    torch.testing.assert_close(model(fields, genres), 3 * features @ weights[:, 0] + model.bias)


@pytest.mark.parametrize("num_genres", [0, 4])
def test_sparse_tables_have_the_same_gradient_in_the_rows_that_were_looked_up(num_genres):
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model: Any = DeepFM((5, 9, 3), num_genres, sparse=sparse)
        model(*batch()).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    dense, rows = found
    assert {name for name, g in rows.items() if g.is_sparse} == {n for n in rows if "fields" in n or "genres" in n}
    for name, gradient in rows.items():
        torch.testing.assert_close(gradient.to_dense(), dense[name])
