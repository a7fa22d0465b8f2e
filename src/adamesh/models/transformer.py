"""A small decoder-only language model."""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Transformer"]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each added to the stream (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, stream: Tensor) -> Tensor:
        """Stream [n, context, width] to the same shape."""
        n, context, width = stream.shape
        joined = self.queries_keys_values(self.attention_norm(stream))
        q, k, v = joined.view(n, context, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        stream = stream + self.attention_out(mixed.transpose(1, 2).reshape(n, context, width))
        forwarded: Tensor = self.feedforward(stream)
        return stream + forwarded


class Transformer(nn.Module):
    """A decoder-only language model; the output layer has weights of its own."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token numbers [n, length], at most ``context`` long, to logits [n, length, vocabulary]."""
        stream = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.head(self.norm(stream))
        return logits
