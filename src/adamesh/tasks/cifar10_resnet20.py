"""CIFAR-10 with the ResNet-20 of He, Zhang, Ren and Sun (2016), section 4.2."""

from pathlib import Path

from torch import nn

from adamesh.models.resnet_cifar import CifarResNet
from adamesh.tasks.base import Splits, TaskDefaults
from adamesh.tasks.images import Batch, Cifar10Classification, cifar10_splits

__all__ = ["Cifar10ResNet20"]


class Cifar10ResNet20(Cifar10Classification):
    """Ten classes, cross-entropy, accuracy; `CifarResNet`. Their error of 8.75 % took SGD 164 epochs."""

    name = "cifar10-resnet20"
    summary = "CIFAR-10, ResNet-20 (He et al. 2016), cross-entropy"
    defaults = TaskDefaults(batch_size=128, epochs=30, lr=3e-3, schedule="cosine", warmup_steps=50)

    def build_model(self) -> nn.Module:
        return CifarResNet(blocks=3, classes=10)

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        return cifar10_splits(data, seed, drawn=300)
