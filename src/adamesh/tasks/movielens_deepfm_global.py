"""`movielens_deepfm`, tested on what comes after everything it was trained on; the unknown are reported apart."""

from collections.abc import Mapping

from torch import Tensor

from adamesh.data.ratings import Integers, Ratings, split_by_time
from adamesh.tasks.movielens_deepfm import TEST_SHARE, MovieLens

__all__ = ["MovieLensDeepFMGlobal"]


class MovieLensDeepFMGlobal(MovieLens):
    """The last ratings of all are for testing; "cold" are those of users or items that training has not seen."""

    name = "movielens-deepfm-global"
    summary = "the same, the last 20 % of all ratings held out; unknown users and items reported apart"

    def split(self, ratings: Ratings) -> tuple[Integers, Integers]:
        return split_by_time(ratings, TEST_SHARE, per_user=False)

    def parts(self, fields: Tensor) -> Mapping[str, Tensor]:
        cold = (fields[:, :2] == 0).any(dim=1)
        return {"cold": cold, "warm": ~cold}
