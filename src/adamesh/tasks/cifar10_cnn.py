"""CIFAR-10 with a small convolutional network: three convolutions, batch normalisation, one hidden layer."""

from pathlib import Path

from torch import nn

from adamesh.models.cnn import PoolingCNN
from adamesh.tasks.base import Splits, TaskDefaults
from adamesh.tasks.images import Batch, Cifar10Classification, cifar10_splits

__all__ = ["Cifar10CNN"]


class Cifar10CNN(Cifar10Classification):
    """Ten classes, cross-entropy, accuracy; `PoolingCNN`."""

    name = "cifar10-cnn"
    summary = "CIFAR-10, small CNN with batch norm, cross-entropy"
    defaults = TaskDefaults(batch_size=128, epochs=15, lr=3e-3, schedule="cosine", warmup_steps=50)

    def build_model(self) -> nn.Module:
        return PoolingCNN(channels=3, side=32, classes=10)

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        return cifar10_splits(data, seed, drawn=1500)
