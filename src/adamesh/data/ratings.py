"""Ratings in memory: who rated what, how and when, and what is known of users and items besides."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "FeatureSizes",
    "FeatureTable",
    "Integers",
    "RatingBatch",
    "RatingSplit",
    "Ratings",
    "encoded",
    "split_by_time",
]

Integers = NDArray[np.int64]

RatingBatch = tuple[Tensor, Tensor, Tensor]
"""Codes of fields (int64 [n, fields]), of genres (int64 [n, most], 0 where there are fewer), labels (float [n])."""


@dataclass(frozen=True)
class Ratings:
    """n ratings. Users and items are row numbers of tables; a code of 0 in a table means unknown."""

    user_ids: Integers
    """What the data call each user, one per row of the table of users, rising."""
    item_ids: Integers
    """The same of items."""
    users: Integers
    """Row of the user of each rating, [n]."""
    items: Integers
    """Row of the item of each rating, [n]."""
    values: NDArray[np.float32]
    """[n]."""
    times: Integers
    """Seconds since 1970, [n]."""
    user_fields: Integers
    """One row per user, one column per field (age, gender, ...), which may be none."""
    field_sizes: tuple[int, ...]
    """Codes of each user field are below this."""
    genres: Integers
    """One row per item: codes of its genres, then 0 to a common width, which may be 0."""
    num_genres: int
    """Codes of genres are below this."""
    origin: str
    """Which data this is, and whether it is real or generated."""

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class FeatureSizes:
    """What a model has to know of the data. Code 0 of every field is what training does not know."""

    fields: tuple[int, ...]
    """Codes of each field, the user and the item first, are below this."""
    genres: int
    """As `Ratings.num_genres`."""


class RatingSplit:
    """Some of the ratings, as features and labels.

    Args:
        ratings: all of them.
        rows: which belong to this part, [n].
        labels: of all ratings.
        user_codes: one row per user: its own code, then its fields'.
        item_codes: one row per item: its own code.
    """

    def __init__(
        self, ratings: Ratings, rows: Integers, labels: NDArray[np.float32], user_codes: Integers, item_codes: Integers
    ) -> None:
        # Codes are looked up batch by batch: 25 million ratings take 300 MB like this, and 5 GB written out.
        self._users = torch.from_numpy(ratings.users[rows].astype(np.int32))
        self._items = torch.from_numpy(ratings.items[rows].astype(np.int32))
        self._labels = torch.from_numpy(labels[rows])
        self._user_codes, self._item_codes = torch.from_numpy(user_codes), torch.from_numpy(item_codes)
        self._genres = torch.from_numpy(ratings.genres)

    def __len__(self) -> int:
        return len(self._labels)

    def batch(self, indices: Tensor) -> RatingBatch:
        users, items = self._user_codes[self._users[indices]], self._item_codes[self._items[indices]]
        fields = torch.cat([users[:, :1], items, users[:, 1:]], dim=1)
        return fields, self._genres[self._items[indices]], self._labels[indices]

    def num_cold(self) -> int:
        """How many ratings are of a user or of an item that has code 0."""
        cold_user, cold_item = self._user_codes[:, 0] == 0, self._item_codes[:, 0] == 0
        return int((cold_user[self._users] | cold_item[self._items]).sum())


class FeatureTable:
    """Features of any pair of a user and an item, by what the data call them.

    Args:
        ratings: that training had a part of.
        user_codes: as `RatingSplit` has them.
        item_codes: as `RatingSplit` has them.
    """

    def __init__(self, ratings: Ratings, user_codes: Integers, item_codes: Integers) -> None:
        self._user_ids, self._item_ids = ratings.user_ids, ratings.item_ids
        # A last row of zeros, for those that the data do not have.
        self._user_codes, self._item_codes, self._genres = (
            np.pad(table, ((0, 1), (0, 0))) for table in (user_codes, item_codes, ratings.genres)
        )

    def features(self, users: Integers, items: Integers) -> tuple[Tensor, Tensor]:
        """Codes of fields and of genres, as in a batch; whoever is new has code 0."""
        user_rows, item_rows = _rows(self._user_ids, users), _rows(self._item_ids, items)
        user_codes, item_codes = self._user_codes[user_rows], self._item_codes[item_rows]
        fields = np.concatenate([user_codes[:, :1], item_codes, user_codes[:, 1:]], axis=1)
        return torch.from_numpy(fields), torch.from_numpy(self._genres[item_rows])


def _rows(known: Integers, ids: Integers) -> Integers:
    """The row of each id; the one after the last for an id that is not known."""
    rows = np.searchsorted(known, ids)
    is_known = known[np.minimum(rows, len(known) - 1)] == ids
    return np.where(is_known, rows, len(known))


def encoded(
    ratings: Ratings, train: Integers, test: Integers, positive: Callable[[NDArray[np.float32]], NDArray[np.bool_]]
) -> tuple[FeatureSizes, RatingSplit, RatingSplit, FeatureTable]:
    """Features and labels of both parts, and features of any pair.

    Users and items that only the test part has share code 0.

    Args:
        ratings: all of them.
        train: row numbers of the training part.
        test: row numbers of the test part.
        positive: which ratings have the label 1.
    """
    users, num_users = _codes(ratings.users[train], len(ratings.user_fields))
    items, num_items = _codes(ratings.items[train], len(ratings.genres))
    user_codes = np.concatenate([users[:, None], ratings.user_fields], axis=1)
    labels = positive(ratings.values).astype(np.float32)
    sizes = FeatureSizes((num_users, num_items, *ratings.field_sizes), ratings.num_genres)
    train_split, test_split = (RatingSplit(ratings, part, labels, user_codes, items[:, None]) for part in (train, test))
    return sizes, train_split, test_split, FeatureTable(ratings, user_codes, items[:, None])


def _codes(seen: Integers, num_rows: int) -> tuple[Integers, int]:
    """A code from 1 for each row that is seen, 0 for the others; and the number of codes."""
    is_seen = np.zeros(num_rows, bool)
    is_seen[seen] = True
    return np.where(is_seen, np.cumsum(is_seen), 0), int(is_seen.sum()) + 1


def split_by_time(ratings: Ratings, test_share: float, *, per_user: bool) -> tuple[Integers, Integers]:
    """Row numbers for training and for testing: the last share of the ratings by time, rounded down.

    Of ratings of the same second, those that stand later in the file are the later ones.

    Args:
        ratings: what is split.
        test_share: in 0 to 1.
        per_user: the last share of each user's ratings, not of all ratings together.
    """
    group = ratings.users if per_user else np.zeros_like(ratings.users)
    order = np.lexsort((ratings.times, group))
    counts = np.bincount(group)
    first = np.cumsum(counts) - counts
    place = np.arange(len(order)) - np.repeat(first, counts)
    num_train = counts - (counts * test_share + 1e-9).astype(np.int64)  # 0.2 of 5 is 1, whatever 0.2 is in binary
    is_test = place >= np.repeat(num_train, counts)
    return np.sort(order[~is_test]), np.sort(order[is_test])
