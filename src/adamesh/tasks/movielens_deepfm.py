"""Will a user like a film: DeepFM on MovieLens, and logistic regression on the same features beside it.

Both are trained in one run, on the same batches: the baseline has parameters and a loss of its own.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.generated_ratings import generated_ratings
from adamesh.data.inputs import read_pairs
from adamesh.data.movielens import read_movielens
from adamesh.data.ratings import FeatureSizes, FeatureTable, Integers, RatingBatch, Ratings, encoded, split_by_time
from adamesh.models.deepfm import DeepFM, LogisticRegression
from adamesh.tasks.base import BinaryTask, Predicts, Scored, Splits, TaskDefaults

__all__ = ["BesideBaseline", "MovieLens", "MovieLensDeepFM"]

LIKED = 4.0
TEST_SHARE = 0.2
DIM = 16
HIDDEN = (64, 64)
DROPOUT = 0.3
TOGETHER = 8192
# The learning rate and weight decay that are best for DeepFM would hold logistic regression down; at this scale
# they are as good for it as any that were tried, on ratings taken from the training part of ml-100k.
BASELINE_SCALE = 8.0


class BesideBaseline(nn.Module):
    """DeepFM and logistic regression; nothing of the one depends on the other."""

    def __init__(self, sizes: FeatureSizes) -> None:
        super().__init__()
        self.deepfm = DeepFM(sizes.fields, sizes.genres, DIM, HIDDEN, DROPOUT)
        self.baseline = LogisticRegression(sizes.fields, sizes.genres, BASELINE_SCALE)

    def forward(self, fields: Tensor, genres: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [n] of DeepFM and of the baseline."""
        return self.deepfm(fields, genres), self.baseline(fields, genres)


class MovieLens(Predicts, BinaryTask[RatingBatch]):
    """Ratings of at least 4 against the rest, log loss; how training and test are cut is a subclass's."""

    defaults = TaskDefaults(batch_size=512, epochs=8, lr=1e-2, weight_decay=0.5, schedule="cosine", warmup_steps=50)
    sized_by_data = True
    predicts_by_data = True

    def __init__(self) -> None:
        self._sizes: FeatureSizes | None = None
        self._table: FeatureTable | None = None

    @abstractmethod
    def split(self, ratings: Ratings) -> tuple[Integers, Integers]:
        """Row numbers of the ratings for training and for testing."""

    @abstractmethod
    def parts(self, fields: Tensor) -> Mapping[str, Tensor]:
        """Parts of the test data to report apart: which samples belong to each, bool [n], from their fields' codes."""

    def build_model(self) -> nn.Module:
        assert self._sizes is not None, "load_data comes first: it knows how many users and items there are"
        return BesideBaseline(self._sizes)

    def load_data(self, data: Path | None, seed: int) -> Splits[RatingBatch]:
        ratings = generated_ratings(seed) if data is None else read_movielens(data)
        parts = self.split(ratings)
        self._sizes, train, test, self._table = encoded(ratings, *parts, lambda values: values >= LIKED)
        counts = f"{len(train):,} for training, {len(test):,} for testing"
        cold = f"{test.num_cold():,} of them of users or items that training has not seen"
        return Splits(train, test, f"{ratings.origin}; {counts}, {cold}")

    def loss(self, model: nn.Module, batch: RatingBatch) -> Tensor:
        fields, genres, labels = batch
        deepfm, baseline = (
            functional.binary_cross_entropy_with_logits(logits, labels) for logits in model(fields, genres)
        )
        # The value is DeepFM's alone; the baseline adds its gradient, which reaches its own parameters only.
        return deepfm + (baseline - baseline.detach())

    def metrics(self, model: nn.Module, batch: RatingBatch) -> Mapping[str, Tensor]:
        fields, genres, labels = batch
        logits, _ = model(fields, genres)
        return {"loss": functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")}

    def scores(self, model: nn.Module, batch: RatingBatch) -> Mapping[str, Scored]:
        fields, genres, labels = batch
        deepfm, baseline = model(fields, genres)
        found = {"": (deepfm, labels), "baseline": (baseline, labels)}
        for name, belongs in self.parts(fields).items():
            found[name] = (deepfm[belongs], labels[belongs])
            found[f"{name}_baseline"] = (baseline[belongs], labels[belongs])
        return found

    def read_inputs(self, path: Path) -> tuple[Integers, Integers]:
        """A user and an item a line, by their ids in the data."""
        return read_pairs(path, "a user id", "an item id")

    def predict(self, model: nn.Module, inputs: tuple[Integers, Integers]) -> Sequence[Mapping[str, Any]]:
        """How likely DeepFM finds it that the user likes the item, and what of the two training has not seen."""
        assert self._table is not None, "load_data comes first: it knows the users and items"
        users, items = inputs
        fields, genres = self._table.features(users, items)
        batches = zip(fields.split(TOGETHER), genres.split(TOGETHER), strict=True)
        chances = torch.cat([model(*batch)[0].sigmoid() for batch in batches])
        rows = zip(users.tolist(), items.tolist(), chances.tolist(), (fields[:, :2] == 0).tolist(), strict=True)
        return [
            {
                "user": user,
                "item": item,
                "probability": chance,
                "unknown": [n for n, new in zip(("user", "item"), are_new, strict=True) if new],
            }
            for user, item, chance, are_new in rows
        ]


class MovieLensDeepFM(MovieLens):
    """Each user's last ratings are for testing, so all users are known."""

    name = "movielens-deepfm"
    summary = "DeepFM beside logistic regression on MovieLens (or generated ratings), each user's last 20 % held out"

    def split(self, ratings: Ratings) -> tuple[Integers, Integers]:
        return split_by_time(ratings, TEST_SHARE, per_user=True)

    def parts(self, fields: Tensor) -> Mapping[str, Tensor]:
        return {}
