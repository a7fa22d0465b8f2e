"""BERT's masked-language-model training, on Wikipedia or any other text."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.corpus import load_corpus
from adamesh.data.sequences import MaskedSplit
from adamesh.data.wordpiece import WordPiece
from adamesh.models.bert import BERT_SIZES, MaskedBert
from adamesh.tasks.base import Splits, Task, TaskDefaults

__all__ = ["WikipediaBert"]

CONTEXT = 128
Batch = tuple[Tensor, Tensor, Tensor, Tensor]

# Deeper and wider models want smaller steps; Devlin et al. trained base with 1e-4.
_LR = {"tiny": 1e-3, "mini": 1e-3, "small": 5e-4, "medium": 3e-4, "base": 1e-4}


class WikipediaBert(Task[Batch]):
    """Cross-entropy and accuracy on the masked tokens, beside the cross-entropy of their unigram frequencies.

    Args:
        size: of the model, one of `BERT_SIZES`.
    """

    name = "wikipedia-bert"
    summary = "BERT, masked tokens of Wikipedia dumps, parquet, plain text or two embedded novels (extra: bert)"
    sizes = tuple(BERT_SIZES)

    def __init__(self, size: str = "tiny") -> None:
        self._size = BERT_SIZES[size]
        self.defaults = TaskDefaults(
            batch_size=16, steps=400, epochs=None, lr=_LR[size], schedule="cosine", warmup_steps=50
        )

    def build_model(self) -> nn.Module:
        return MaskedBert(self._size, CONTEXT)

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        corpus = load_corpus(data, WordPiece, self._size.vocabulary, least=CONTEXT - 2)
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
