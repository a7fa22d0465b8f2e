"""A small language model: each token from those before it, on the text that ships or any other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.corpus import load_corpus
from adamesh.data.inputs import read_lines
from adamesh.data.sequences import NextTokenSplit
from adamesh.data.vocabulary import Vocabulary, Words
from adamesh.models.transformer import Transformer
from adamesh.tasks.base import Predicts, Splits, Task, TaskDefaults
from adamesh.tasks.tokens import likeliest

__all__ = ["Text"]

CONTEXT = 128
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class _Size:
    layers: int
    width: int
    vocabulary: int
    lr: float


_SIZES = {
    "tiny": _Size(layers=2, width=64, vocabulary=1024, lr=1e-2),
    "small": _Size(layers=4, width=256, vocabulary=8192, lr=1e-3),
    "medium": _Size(layers=8, width=512, vocabulary=8192, lr=5e-4),
}


class Text(Predicts, Task[Batch]):
    """Cross-entropy and accuracy of the next token, beside the cross-entropy of the tokens' unigram frequencies.

    Args:
        size: of the model: tiny (0.2 million parameters), small (7.4) or medium (33.7).
    """

    name = "text"
    summary = "small causal transformer on plain text, or two novels (real, embedded), next-token cross-entropy"
    sizes = tuple(_SIZES)
    predicts_by_data = True

    def __init__(self, size: str = "small") -> None:
        self._size = _SIZES[size]
        self._vocabulary: Vocabulary | None = None
        self.defaults = TaskDefaults(
            batch_size=8, steps=130, epochs=None, lr=self._size.lr, schedule="cosine", warmup_steps=30
        )

    def build_model(self) -> nn.Module:
        size = self._size
        return Transformer(size.layers, size.width, size.width // 64, size.vocabulary, CONTEXT)

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        corpus = load_corpus(data, Words, self._size.vocabulary, least=CONTEXT + 1)
        self._vocabulary = corpus.vocabulary
        return Splits(
            train=NextTokenSplit(corpus.train, corpus.unigram, CONTEXT),
            test=NextTokenSplit(corpus.test, corpus.unigram, CONTEXT),
            source=corpus.source,
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets, _ = batch
        return functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        inputs, targets, unigram_loss = batch
        logits = model(inputs)
        each = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return {
            "loss": each.view_as(targets).mean(dim=1).sum(),
            "accuracy": (logits.argmax(dim=2) == targets).double().mean(dim=1).sum(),
            "unigram_loss": unigram_loss.sum(),
        }

    def read_inputs(self, path: Path) -> list[str]:
        """A beginning a line."""
        return read_lines(path, "the beginning of a text")

    def predict(self, model: nn.Module, inputs: list[str]) -> Sequence[Mapping[str, Any]]:
        """What may come next; of a long beginning the last `CONTEXT` tokens count."""
        vocabulary = self._vocabulary
        assert vocabulary is not None, "load_data comes first: it knows what the tokens are"
        rows = (numbers[-CONTEXT:] for numbers in vocabulary.encode(inputs))
        return [
            {"text": line, "next": likeliest(model(torch.tensor([row]))[0, -1], vocabulary)}
            for line, row in zip(inputs, rows, strict=True)
        ]
