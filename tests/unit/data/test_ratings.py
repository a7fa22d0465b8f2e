"""How ratings are split and encoded."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adamesh.data.generated_ratings import generated_ratings
from adamesh.data.ratings import Ratings, encoded, split_by_time


def ratings_of(users, times, items=None):
    users = np.asarray(users, np.int64)
    items = np.arange(len(users)) if items is None else np.asarray(items)
    return Ratings(
        user_ids=10 * np.arange(users.max() + 1),
        item_ids=10 * np.arange(items.max() + 1),
        users=users,
        items=items,
        values=np.full(len(users), 4, np.float32),
        times=np.asarray(times, np.int64),
        user_fields=np.zeros((users.max() + 1, 0), np.int64),
        field_sizes=(),
        genres=np.zeros((items.max() + 1, 0), np.int64),
        num_genres=0,
        origin="",
    )


RATED = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(rated=RATED, per_user=st.booleans())
def test_nothing_for_testing_is_earlier_than_anything_for_training(rated, per_user):
    users, times = (np.array(column) for column in zip(*rated, strict=True))
    train, test = split_by_time(ratings_of(users, times), 0.2, per_user=per_user)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(rated)))
    groups = [users == user for user in set(users.tolist())] if per_user else [users >= 0]
    for group in groups:
        of_train, of_test = (part[group[part]] for part in (train, test))
        assert len(of_test) == group.sum() * 2 // 10
        if len(of_test):
            # A time may be on both sides; then it is the place in the file that decides.
            last, first = ((times[part] * 1000 + part) for part in (of_train, of_test))
            assert last.max() < first.min()


def test_codes_come_from_the_training_part_and_the_unknown_share_code_0():
    ratings = ratings_of(users=[3, 0, 3, 5, 1], times=[1, 2, 3, 4, 5], items=[2, 2, 0, 2, 4])
    train, test = np.array([0, 1, 2]), np.array([3, 4])
    sizes, of_train, of_test, _ = encoded(ratings, train, test, lambda values: values >= 4)
    assert sizes.fields == (3, 3)  # users 0 and 3, items 0 and 2, each behind the unknown
    assert of_train.batch(torch.arange(3))[0].tolist() == [[2, 2], [1, 2], [2, 1]]
    assert of_test.batch(torch.arange(2))[0].tolist() == [[0, 2], [0, 0]]
    assert (of_train.num_cold(), of_test.num_cold()) == (0, 2)


def test_a_batch_has_the_fields_genres_and_labels_of_its_ratings_in_order():
    ratings = generated_ratings(seed=0)
    rows = np.arange(len(ratings))
    sizes, split, *_ = encoded(ratings, rows, rows[:1], lambda values: values >= 4)
    indices = torch.tensor([5, 0, 77])
    fields, genres, labels = split.batch(indices)
    users, items = ratings.users[indices], ratings.items[indices]
    assert fields[:, 2:].tolist() == ratings.user_fields[users].tolist()
    assert genres.tolist() == ratings.genres[items].tolist()
    assert labels.tolist() == (ratings.values[indices] >= 4).tolist()
    assert (fields < torch.tensor(sizes.fields)).all()
    assert (genres < sizes.genres).all()


def test_generated_ratings_are_the_same_for_a_seed_and_differ_between_seeds():
    one, same, other = generated_ratings(3), generated_ratings(3), generated_ratings(4)
    assert np.array_equal(one.values, same.values)
    assert np.array_equal(one.genres, same.genres)
    assert not np.array_equal(one.values, other.values)
    assert set(one.values.tolist()) == {1, 2, 3, 4, 5}
    pairs = one.users * len(one.genres) + one.items
    assert len(np.unique(pairs)) == len(one)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_may_be_for_testing(share):
    parts = split_by_time(ratings_of([0, 0, 1], [1, 2, 3]), share, per_user=True)
    assert [len(part) for part in parts] == [round(3 * (1 - share)), round(3 * share)]
