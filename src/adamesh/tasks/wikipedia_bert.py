"""BERT's masked-language-model training, on Wikipedia or any other text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.corpus import load_corpus
from adamesh.data.inputs import read_lines
from adamesh.data.sequences import MaskedSplit
from adamesh.data.vocabulary import Vocabulary
from adamesh.data.wordpiece import WordPiece
from adamesh.errors import DataError
from adamesh.models.bert import BERT_SIZES, MaskedBert
from adamesh.tasks.base import Predicts, Splits, Task, TaskDefaults
from adamesh.tasks.tokens import likeliest

__all__ = ["WikipediaBert"]

CONTEXT = 128
MARK = "[MASK]"
Batch = tuple[Tensor, Tensor, Tensor, Tensor]

# Deeper and wider models want smaller steps; Devlin et al. trained base with 1e-4.
_LR = {"tiny": 1e-3, "mini": 1e-3, "small": 5e-4, "medium": 3e-4, "base": 1e-4}


class Gaps(NamedTuple):
    """A line with gaps in it."""

    text: str
    tokens: list[int]
    """With [CLS] before and [SEP] behind."""
    places: list[int]
    """Of the gaps among the tokens."""


class WikipediaBert(Predicts, Task[Batch]):
    """Cross-entropy and accuracy on the masked tokens, beside the cross-entropy of their unigram frequencies.

    Args:
        size: of the model, one of `BERT_SIZES`.
    """

    name = "wikipedia-bert"
    summary = "BERT, masked tokens of Wikipedia dumps, parquet, plain text or two embedded novels (extra: bert)"
    sizes = tuple(BERT_SIZES)
    predicts_by_data = True

    def __init__(self, size: str = "tiny") -> None:
        self._size = BERT_SIZES[size]
        self._vocabulary: Vocabulary | None = None
        self.defaults = TaskDefaults(
            batch_size=16, steps=400, epochs=None, lr=_LR[size], schedule="cosine", warmup_steps=50
        )

    def build_model(self) -> nn.Module:
        return MaskedBert(self._size, CONTEXT)

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        corpus = load_corpus(data, WordPiece, self._size.vocabulary, least=CONTEXT - 2)
        self._vocabulary = corpus.vocabulary
        return Splits(
            train=MaskedSplit(corpus.train, corpus.unigram, CONTEXT),
            test=MaskedSplit(corpus.test, corpus.unigram, CONTEXT),
            source=corpus.source,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        # Every sequence has as many targets: their mean is the mean over sequences.
        inputs, places, targets, _ = batch
        return functional.cross_entropy(model(inputs, places).flatten(0, 1), targets.flatten())

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """Loss and accuracy; and the loss of knowing only how frequent each token is in the training split."""
        inputs, places, targets, unigram_loss = batch
        logits = model(inputs, places)
        each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return {
            "loss": each.view_as(targets).mean(dim=1).sum(),
            "accuracy": (logits.argmax(dim=2) == targets).double().mean(dim=1).sum(),
            "unigram_loss": unigram_loss.sum(),
        }

    def read_inputs(self, path: Path) -> list[Gaps]:
        """A line of text with ``[MASK]`` wherever a token is to be found."""
        lines = read_lines(path, f"a text with {MARK} in it")
        return [self._with_gaps(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]

    def predict(self, model: nn.Module, inputs: list[Gaps]) -> Sequence[Mapping[str, Any]]:
        """What may stand in each gap."""
        assert self._vocabulary is not None, "load_data comes first: it knows what the tokens are"
        records = []
        for text, tokens, places in inputs:
            logits = model(torch.tensor([tokens]), torch.tensor([places]))[0]
            records.append({"text": text, "masks": [likeliest(row, self._vocabulary) for row in logits]})
        return records

    def _with_gaps(self, line: str, origin: str) -> Gaps:
        assert self._vocabulary is not None, "load_data comes first: it knows what the tokens are"
        first, *others = self._vocabulary.encode(line.split(MARK))
        if not others:
            raise DataError(
                f"{origin}: has no {MARK}, and a line must have one where a token is to be found: {line[:60]!r}"
            )
        tokens, places = [WordPiece.CLS, *first], []
        for part in others:
            places.append(len(tokens))
            tokens += [WordPiece.MASK, *part]
        tokens.append(WordPiece.SEP)
        if len(tokens) > CONTEXT:
            raise DataError(
                f"{origin}: makes {len(tokens) - 2} tokens, and the model sees at most {CONTEXT - 2}; shorten the line"
            )
        return Gaps(line, tokens, places)
