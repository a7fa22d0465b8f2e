"""A multilayer perceptron."""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear layers with ReLU, and dropout, between them.

    Args:
        inputs: features of a sample.
        hidden: widths of the hidden layers; none makes a linear model.
        outputs: numbers per sample.
        dropout: the share of each hidden layer that is dropped in training.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for width in hidden:
            self.layers.extend([nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)])
            inputs = width
        self.layers.append(nn.Linear(inputs, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """[n, ...], flattened to [n, inputs], to [n, outputs]."""
        outputs: Tensor = self.layers(features.flatten(start_dim=1))
        return outputs
