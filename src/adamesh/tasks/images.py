"""What the image tasks share: ten or so classes and cross-entropy; CIFAR-10, or drawings in its stead."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.cifar import CIFAR10_NORMALISATION, read_cifar10
from adamesh.data.images import CropFlip, ImageSplit
from adamesh.data.shapes import KINDS, drawn_shapes
from adamesh.tasks.base import Splits, Task

__all__ = ["Batch", "ImageClassification", "cifar10_splits"]

DRAWN_FOR_TESTING = 500

Batch = tuple[Tensor, Tensor]
"""Images [n, channels, height, width] and labels, int64 [n]."""


class ImageClassification(Task[Batch]):
    """One of several classes for each image; cross-entropy and accuracy."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A model from images to logits [n, classes]."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        images, labels = batch
        logits = model(images)
        return {
            "loss": functional.cross_entropy(logits, labels, reduction="sum"),
            "accuracy": (logits.argmax(dim=1) == labels).sum(),
        }


def cifar10_splits(data: Path | None, seed: int, *, drawn: int) -> Splits[Batch]:
    """CIFAR-10 with its standard augmentation.

    Args:
        data: the archive or folder; None: drawings of ten kinds in the same format.
        seed: what the drawings depend on.
        drawn: how many drawings to train on. The fewer, the sooner the epochs that suit CIFAR-10 are over.

    Raises:
        DataError: see `read_cifar10`.
    """
    if data is not None:
        found = read_cifar10(data)
        train, test, origin = found.train, found.test, f"CIFAR-10 from {found.origin}: real"
    else:
        images, labels = drawn_shapes(drawn + DRAWN_FOR_TESTING, 32, len(KINDS), seed)
        train, test = (images[:drawn], labels[:drawn]), (images[drawn:], labels[drawn:])
        origin = "generated drawings of ten shapes in place of CIFAR-10 (give it with --data)"
    return Splits(
        train=ImageSplit(*train, CIFAR10_NORMALISATION, CropFlip(padding=4)),
        test=ImageSplit(*test, CIFAR10_NORMALISATION, CropFlip(padding=4)),
        source=f"{origin}, {len(train[0]):,} for training, {len(test[0]):,} for testing",
    )
