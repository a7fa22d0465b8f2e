"""DeepFM, and the logistic regression that it has to beat, on categorical fields and lists of genres.

Both take codes of fields, int64 [n, fields], and codes of genres, int64 [n, most], where 0 stands for none. Code
0 of a field is what training has not seen: it starts as zeros, and says nothing until it is trained.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adamesh.models.mlp import MLP

__all__ = ["DeepFM", "LogisticRegression"]


class DeepFM(nn.Module):
    """A factorisation machine and a deep network over the same embeddings (Guo et al. 2017, section 2).

    logit = bias + sum_i w_i + sum_{i<j} <v_i, v_j> + MLP(v_1, ..., v_F), one i per field. A sample's genres are
    one field, whose w and v are means over the genres; the paper has no fields of several values.

    Args:
        field_sizes: codes of each field are below this.
        num_genres: codes of genres are below this; 0: there are no genres.
        dim: of the embeddings v.
        hidden: widths of the MLP.
        dropout: on the MLP's hidden layers.
        sparse: the tables' gradients have only the rows that were looked up.
    """

    def __init__(
        self,
        field_sizes: Sequence[int],
        num_genres: int,
        dim: int = 16,
        hidden: Sequence[int] = (64, 64),
        dropout: float = 0.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.linear = LogisticRegression(field_sizes, num_genres, sparse=sparse)
        self.embeddings = _Tables(field_sizes, num_genres, dim, std=0.05, sparse=sparse)
        self.deep = MLP(self.embeddings.num_fields * dim, hidden, 1, dropout)

    def forward(self, fields: Tensor, genres: Tensor) -> Tensor:
        """Logits [n]."""
        vectors = self.embeddings(fields, genres)
        logits: Tensor = self.linear(fields, genres) + pairwise(vectors) + self.deep(vectors).squeeze(1)
        return logits


class LogisticRegression(nn.Module):
    """logit = bias + sum_i w_i: `DeepFM`'s first-order part, by itself logistic regression on one-hot fields.

    Args:
        field_sizes: codes of each field are below this.
        num_genres: codes of genres are below this; 0: there are no genres.
        scale: weights are kept divided by this. Adam moves them by the learning rate whatever they are, so a
            larger scale learns faster, and is held back less by weight decay.
        sparse: the tables' gradients have only the rows that were looked up.
    """

    def __init__(self, field_sizes: Sequence[int], num_genres: int, scale: float = 1.0, sparse: bool = False) -> None:
        super().__init__()
        self.scale = scale
        self.weights = _Tables(field_sizes, num_genres, dim=1, std=0.0, sparse=sparse)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, fields: Tensor, genres: Tensor) -> Tensor:
        """Logits [n]."""
        logits: Tensor = self.scale * self.weights(fields, genres).sum(dim=(1, 2)) + self.bias
        return logits


class _Tables(nn.Module):
    """A vector for each field of a sample: [n, num_fields, dim], the genres' mean being the last."""

    def __init__(self, field_sizes: Sequence[int], num_genres: int, dim: int, std: float, sparse: bool) -> None:
        super().__init__()
        self.fields = nn.ModuleList(nn.Embedding(size, dim, sparse=sparse) for size in field_sizes)
        self.genres = (
            nn.EmbeddingBag(num_genres, dim, mode="mean", padding_idx=0, sparse=sparse) if num_genres else None
        )
        for weight in self.parameters():
            nn.init.normal_(weight, std=std)
            with torch.no_grad():
                weight[0] = 0

    @property
    def num_fields(self) -> int:
        return len(self.fields) + (self.genres is not None)

    def forward(self, fields: Tensor, genres: Tensor) -> Tensor:
        vectors = [table(codes) for table, codes in zip(self.fields, fields.unbind(1), strict=True)]
        if self.genres is not None:
            vectors.append(self.genres(genres))
        return torch.stack(vectors, dim=1)


def pairwise(vectors: Tensor) -> Tensor:
    """The sum of <v_i, v_j> over i < j, of vectors [n, fields, dim]: [n] (Rendle 2010, lemma 3.1)."""
    of_sum, of_each = vectors.sum(dim=1).square(), vectors.square().sum(dim=1)
    return 0.5 * (of_sum - of_each).sum(dim=1)
