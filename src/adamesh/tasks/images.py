"""What the image tasks share: CIFAR-10, or drawings in its stead; its ten classes; photographs to predict."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.cifar import CIFAR10_CLASSES, CIFAR10_NORMALISATION, read_cifar10
from adamesh.data.images import CropFlip, ImageSplit
from adamesh.data.photos import read_photos
from adamesh.data.shapes import KINDS, drawn_shapes
from adamesh.tasks.base import Predicts, Splits, Task

__all__ = ["Batch", "Cifar10Classification", "Named", "cifar10_photos", "cifar10_splits", "most_likely"]

DRAWN_FOR_TESTING = 200

Batch = tuple[Tensor, Tensor]
"""Images [n, channels, height, width] and labels, int64 [n]."""


Named = tuple[list[str], Tensor]
"""Photographs' names, and they themselves as a batch."""


class Cifar10Classification(Predicts, Task[Batch]):
    """One of CIFAR-10's classes for each image; cross-entropy and accuracy."""

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

    def read_inputs(self, path: Path) -> Named:
        return cifar10_photos(path)

    def predict(self, model: nn.Module, inputs: Named) -> Sequence[Mapping[str, Any]]:
        """The most likely class and how likely the model finds it."""
        return [
            {"file": name, "class": CIFAR10_CLASSES[number], "probability": chance}
            for name, number, chance in most_likely(model, inputs)
        ]


def most_likely(model: nn.Module, inputs: Named) -> list[tuple[str, int, float]]:
    """Each photograph's name, most likely class, and how likely the model finds it."""
    names, images = inputs
    chances, numbers = model(images).softmax(dim=1).max(dim=1)
    return list(zip(names, numbers.tolist(), chances.tolist(), strict=True))


def cifar10_photos(path: Path) -> Named:
    """A photograph, or a folder of them, as CIFAR-10's images are: the middle square, 32 x 32 pixels."""
    return read_photos(path, side=32, middle=1.0, normalisation=CIFAR10_NORMALISATION)


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
