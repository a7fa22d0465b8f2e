"""Sequences of equal length cut from a corpus: to predict the next token, or tokens that are masked."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adamesh.data.draws import uniform
from adamesh.data.seeds import derived_seed
from adamesh.data.wordpiece import WordPiece

__all__ = ["MaskedSplit", "NextTokenSplit"]


class NextTokenSplit:
    """Every token of a sequence is to be predicted from those before it.

    A batch is the inputs and the targets (int64 [n, context], the one is the other a token later), and the mean
    cross-entropy of each sequence's targets under the unigram distribution (float32 [n]).

    Args:
        tokens: the corpus, one row.
        unigram: log-probability of each token.
        context: tokens in a sequence.
    """

    def __init__(self, tokens: NDArray[Any], unigram: Tensor, context: int) -> None:
        self._tokens = tokens
        self._unigram = unigram
        self._context = context

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._context

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(self._tokens, indices, self._context, self._context + 1)
        targets = rows[:, 1:].contiguous()
        return rows[:, :-1].contiguous(), targets, -self._unigram[targets].mean(dim=1)


class MaskedSplit:
    """Some tokens of a sequence are hidden and to be found again (Devlin et al. 2019, section 3.1).

    A sequence is [CLS], ``context - 2`` tokens, [SEP]. 15 % of its tokens are chosen, the same number in each
    sequence, so that a mean over sequences is the mean over chosen tokens (BERT chooses 15 % too, of what is
    there); of these, by chance, 80 % become [MASK], 10 % a random token and 10 % stay. Separators are not chosen.

    A batch is the inputs (int64 [n, context]), the places and the values of the chosen tokens (int64 [n, k]),
    and the mean cross-entropy of each sequence's chosen tokens under the unigram distribution (float32 [n]).

    Args:
        tokens: the corpus, one row of `WordPiece` numbers.
        unigram: log-probability of each token; as many as the vocabulary has.
        context: tokens in a sequence.
    """

    SHARE = 0.15
    _EVALUATION = derived_seed("evaluation")

    def __init__(self, tokens: NDArray[Any], unigram: Tensor, context: int) -> None:
        self._tokens = tokens
        self._unigram = unigram
        self._inside = context - 2
        self.num_chosen = round(self.SHARE * context)

    def __len__(self) -> int:
        return len(self._tokens) // self._inside

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masked as in every evaluation."""
        return self.augmented_batch(indices, self._EVALUATION)

    def augmented_batch(self, indices: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Masked as the seed and each sequence's index say."""
        rows = _rows(self._tokens, indices, self._inside, self._inside)
        draws = uniform(derived_seed("mask", seed), indices, 3 * self._inside).view(len(rows), 3, self._inside)
        # Sorted by chance, separators last: articles are too long for so many of them in a sequence.
        order = (draws[:, 0] + (rows == WordPiece.SEP)).argsort(dim=1)
        chosen = order[:, : self.num_chosen].sort(dim=1).values
        targets = rows.gather(1, chosen)
        fate, other = draws[:, 1].gather(1, chosen), draws[:, 2].gather(1, chosen)
        special = len(WordPiece.SPECIAL)
        random = special + (other * (len(self._unigram) - special)).long()
        shown = torch.where(fate < 0.8, WordPiece.MASK, torch.where(fate < 0.9, random, targets))
        inputs = torch.cat(
            [
                torch.full((len(rows), 1), WordPiece.CLS),
                rows.scatter(1, chosen, shown),
                torch.full((len(rows), 1), WordPiece.SEP),
            ],
            dim=1,
        )
        return inputs, chosen + 1, targets, -self._unigram[targets].mean(dim=1)


def _rows(tokens: NDArray[Any], indices: Tensor, stride: int, length: int) -> Tensor:
    """For each index the ``length`` tokens from ``index * stride``, int64 [n, length]."""
    starts = indices.numpy()[:, None] * stride
    return torch.from_numpy(tokens[starts + np.arange(length)].astype(np.int64))
