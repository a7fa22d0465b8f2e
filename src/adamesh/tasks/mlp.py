"""The embedded handwritten digits by a multilayer perceptron, to which a pixel's place means nothing."""

from torch import nn

from adamesh.models.mlp import MLP
from adamesh.tasks.base import TaskDefaults
from adamesh.tasks.digits import DigitsTask

__all__ = ["MultilayerPerceptron"]


class MultilayerPerceptron(DigitsTask):
    """Two hidden layers."""

    name = "mlp"
    summary = "handwritten digits (as in digits), multilayer perceptron, cross-entropy"
    defaults = TaskDefaults(batch_size=64, epochs=20, lr=3e-3, schedule="cosine", warmup_steps=20)

    def build_model(self) -> nn.Module:
        return MLP(inputs=64, hidden=(128, 64), outputs=10, dropout=0.1)
