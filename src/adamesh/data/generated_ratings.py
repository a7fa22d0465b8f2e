"""Ratings drawn from a latent-factor model, for those who have no MovieLens at hand."""

import numpy as np

from adamesh.data.ratings import Ratings
from adamesh.data.seeds import derived_seed

__all__ = ["generated_ratings"]

NUM_USERS = 400
NUM_ITEMS = 300
NUM_RATINGS = 40_000
NUM_GENRES = 8
RANK = 4
NOISE = 0.6
_FIRST_S, _STAY_S = 1_000_000_000, 10_000_000
_FIELD_SIZES = (8, 3, 11)  # age bucket, gender, occupation, code 0 of each being unknown


def generated_ratings(seed: int) -> Ratings:
    """Ratings 1 to 5: a mean, biases of user and item, the product of their factors, noise (Koren et al. 2009).

    An item's factors are in part its genres', a user's in part those of age, gender and occupation. Nobody
    rates an item twice. Users come one after the other and stay for a tenth of the whole time.
    """
    rng = np.random.default_rng(derived_seed("ratings", seed))
    is_genre = rng.random((NUM_ITEMS, NUM_GENRES)) < 0.25
    fields = np.stack([rng.integers(1, size, NUM_USERS) for size in _FIELD_SIZES], axis=1)
    tastes = sum(rng.normal(0, 0.4, (size, RANK))[column] for size, column in zip(_FIELD_SIZES, fields.T, strict=True))
    user_factors = rng.normal(0, 0.7, (NUM_USERS, RANK)) + tastes
    genre_means = is_genre / np.maximum(1, is_genre.sum(axis=1, keepdims=True))
    item_factors = rng.normal(0, 0.3, (NUM_ITEMS, RANK)) + genre_means @ rng.normal(0, 0.9, (NUM_GENRES, RANK))
    user_bias, item_bias = rng.normal(0, 0.4, NUM_USERS), rng.normal(0, 0.5, NUM_ITEMS)

    pairs = rng.choice(NUM_USERS * NUM_ITEMS, NUM_RATINGS, replace=False)
    users, items = pairs // NUM_ITEMS, pairs % NUM_ITEMS
    scores = 3.5 + user_bias[users] + item_bias[items] + (user_factors[users] * item_factors[items]).sum(axis=1)
    values = np.clip(np.rint(scores + rng.normal(0, NOISE, NUM_RATINGS)), 1, 5)
    most = int(is_genre.sum(axis=1).max())
    genres = np.sort(np.where(is_genre, np.arange(1, NUM_GENRES + 1), 0), axis=1)[:, ::-1][:, :most]
    return Ratings(
        user_ids=np.arange(1, NUM_USERS + 1),
        item_ids=np.arange(1, NUM_ITEMS + 1),
        users=users,
        items=items,
        values=values.astype(np.float32),
        times=_FIRST_S + rng.integers(0, 9 * _STAY_S, NUM_USERS)[users] + rng.integers(0, _STAY_S, NUM_RATINGS),
        user_fields=fields,
        field_sizes=_FIELD_SIZES,
        genres=genres.copy(),
        num_genres=NUM_GENRES + 1,
        origin=f"generated: {NUM_RATINGS:,} ratings of {NUM_USERS} users and {NUM_ITEMS} items, latent rank {RANK}",
    )
