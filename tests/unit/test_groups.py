"""Which parameters go where."""

import pytest
import torch
from torch import nn

import adamesh
from adamesh.errors import ConfigurationError
from tests.parity.recommender import Recommender


def names(groups):
    return [[name for name, _ in group["params"]] for group in groups]


def test_tables_and_the_rest_are_apart_and_go_by_the_models_names():
    groups = adamesh.param_groups(Recommender(), sparse="decayed", lr=0.5)
    assert names(groups) == [
        ["head.weight", "head.bias"],
        ["items.weight", "popularity.weight", "genres.weight"],
    ]
    assert {key: value for key, value in groups[1].items() if key != "params"} == {"sparse": "decayed", "lr": 0.5}
    assert set(groups[0]) == {"params"}


def test_a_model_without_sparse_modules_is_one_dense_group():
    assert names(adamesh.param_groups(Recommender(sparse=False))) == [
        ["items.weight", "popularity.weight", "genres.weight", "head.weight", "head.bias"]
    ]


def test_a_group_without_parameters_is_left_out():
    assert names(adamesh.param_groups(nn.Embedding(3, 2, sparse=True))) == [["weight"]]


def test_a_table_that_a_dense_layer_uses_too_has_dense_gradients_and_trains():
    model = nn.ModuleList([nn.Embedding(5, 3, sparse=True), nn.Linear(3, 5)])
    model[1].weight = model[0].weight
    groups = adamesh.param_groups(model, "exact")
    assert names(groups) == [["0.weight", "1.bias"]]
    optimizer = adamesh.AdamW(groups)
    model[1](model[0](torch.tensor([1, 2]))).sum().backward()
    optimizer.step()


def test_exact_groups_say_who_reads_them():
    model = Recommender()
    assert adamesh.param_groups(model, "exact")[1]["modules"] == [model.items, model.popularity, model.genres]


def test_groups_can_be_used_twice():
    groups = adamesh.param_groups(Recommender(), "exact")
    for _ in range(2):
        adamesh.AdamW(groups)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigurationError, match=r"'greedy'.*'lazy', 'decayed', 'exact'"):
        adamesh.param_groups(Recommender(), "greedy")
