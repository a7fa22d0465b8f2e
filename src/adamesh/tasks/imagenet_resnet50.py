"""ImageNet with the ResNet-50 of He, Zhang, Ren and Sun (2016), from the start or from pre-trained weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.imagenet import read_imagenet
from adamesh.data.images import CropFlip, ImageSplit
from adamesh.data.photos import IMAGENET_MIDDLE, IMAGENET_NORMALISATION, read_photos
from adamesh.data.shapes import drawn_shapes, tinted
from adamesh.models.resnet import resnet50
from adamesh.tasks.base import Predicts, Splits, Task, TaskDefaults
from adamesh.tasks.images import Batch, Named, most_likely

__all__ = ["ImageNetResNet50"]

CLASSES = 1000
SIDE = 224
# The drawings that stand in for photographs: few and small, since the network is large; so they are easy too.
DRAWN_KINDS = 4
DRAWN_SIDE = 32
DRAWN_FOR_TRAINING = 40
DRAWN_FOR_TESTING = 40


class ImageNetResNet50(Predicts, Task[Batch]):
    """A thousand classes, cross-entropy, accuracy of the first and of the first five guesses."""

    name = "imagenet-resnet50"
    summary = "ImageNet, ResNet-50 (He et al. 2016), cross-entropy; pre-trained weights with --weights"
    defaults = TaskDefaults(batch_size=256, epochs=16, lr=1e-3, weight_decay=0.05, schedule="cosine")

    def build_model(self) -> nn.Module:
        return resnet50(CLASSES)

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        if data is not None:
            found = read_imagenet(data, SIDE, CLASSES)
            source = f"photographs from {found.origin}: real, {len(found.train):,} for training, "
            return Splits(found.train, found.test, f"{source}{len(found.test):,} for testing")
        num = DRAWN_FOR_TRAINING + DRAWN_FOR_TESTING
        images, labels = drawn_shapes(num, DRAWN_SIDE, DRAWN_KINDS, seed)
        images = tinted(images, labels, DRAWN_KINDS)
        train, test = (
            ImageSplit(images[part], labels[part], IMAGENET_NORMALISATION, CropFlip(padding=4))
            for part in torch.arange(num).split([DRAWN_FOR_TRAINING, DRAWN_FOR_TESTING])
        )
        source = f"generated drawings of {DRAWN_KINDS} shapes, {DRAWN_SIDE} x {DRAWN_SIDE}, in place of ImageNet "
        source += f"(give it with --data), {DRAWN_FOR_TRAINING} for training, {DRAWN_FOR_TESTING} for testing"
        return Splits(train, test, source)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        images, labels = batch
        logits = model(images)
        is_guess = logits.topk(5, dim=1).indices == labels.unsqueeze(1)
        return {
            "loss": functional.cross_entropy(logits, labels, reduction="sum"),
            "accuracy": is_guess[:, 0].sum(),
            "top5_accuracy": is_guess.any(dim=1).sum(),
        }

    def read_inputs(self, path: Path) -> Named:
        return read_photos(path, SIDE, IMAGENET_MIDDLE, IMAGENET_NORMALISATION)

    def predict(self, model: nn.Module, inputs: Named) -> Sequence[Mapping[str, Any]]:
        """The most likely class, by its place among the sorted wnids, and how likely the model finds it."""
        return [
            {"file": name, "class": number, "probability": chance}
            for name, number, chance in most_likely(model, inputs)
        ]
