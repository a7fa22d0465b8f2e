"""BERT for masked language modelling, in the published sizes, built from a `transformers` configuration."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from adamesh.errors import ConfigurationError

__all__ = ["BERT_SIZES", "BertSize", "MaskedBert"]


@dataclass(frozen=True)
class BertSize:
    """What is different between the sizes. A head is 64 wide, the layer between 4 times as wide as the rest."""

    layers: int
    width: int
    vocabulary: int


# Turc et al. 2019, "Well-Read Students Learn Better", table 1, which have 30,522 pieces in their vocabulary each.
# The two smallest learn from small texts here, and a smaller vocabulary.
BERT_SIZES: Mapping[str, BertSize] = {
    "tiny": BertSize(layers=2, width=128, vocabulary=4096),
    "mini": BertSize(layers=4, width=256, vocabulary=8192),
    "small": BertSize(layers=4, width=512, vocabulary=30_522),
    "medium": BertSize(layers=8, width=512, vocabulary=30_522),
    "base": BertSize(layers=12, width=768, vocabulary=30_522),
}


class MaskedBert(nn.Module):
    """BERT (Devlin et al. 2019) with its masked-language-model head, which looks only where it is asked to.

    Without dropout, as one reads a text once or a few times (Geiping & Goldstein 2023, section 4.2); so a step
    does not depend on how the batch is cut over workers.

    Args:
        size: one of `BERT_SIZES`.
        context: the longest sequence, in tokens.

    Raises:
        ConfigurationError: the extra ``bert`` is not installed.
    """

    def __init__(self, size: BertSize, context: int) -> None:
        super().__init__()
        try:
            # Here and not above: the import takes seconds, and most runs have no need of it.
            from transformers import BertConfig, BertForMaskedLM
        except ImportError as error:
            raise ConfigurationError("wikipedia-bert needs an extra: pip install 'adamesh[bert]'") from error
        config = BertConfig(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.width // 64,
            intermediate_size=4 * size.width,
            max_position_embeddings=context,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.language_model = BertForMaskedLM(config)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens [n, context] to logits [n, k, vocabulary] at the places [n, k]."""
        hidden = self.language_model.bert(tokens).last_hidden_state
        there = hidden.gather(1, places.unsqueeze(2).expand(-1, -1, hidden.shape[2]))
        logits: Tensor = self.language_model.cls(there)
        return logits
