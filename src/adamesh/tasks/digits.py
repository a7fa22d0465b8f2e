"""Handwritten digits, the default task: real data that ships with the package, a CNN with batch norm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.digits import embedded_digits, read_digits, read_images, split_evenly
from adamesh.data.split import TensorSplit
from adamesh.models.cnn import SmallCNN
from adamesh.tasks.base import Predicts, Splits, Task, TaskDefaults

__all__ = ["Digits", "DigitsTask"]


class DigitsTask(Predicts, Task[tuple[Tensor, Tensor]]):
    """Ten classes, cross-entropy, accuracy; the model is a subclass's."""

    def load_data(self, data: Path | None, seed: int) -> Splits[tuple[Tensor, Tensor]]:
        images, labels = embedded_digits() if data is None else read_digits(data)
        train, test = split_evenly(labels)
        origin = "UCI handwritten digits embedded in the package" if data is None else f"digits from {data}"
        return Splits(
            train=TensorSplit(images[train], labels[train]),
            test=TensorSplit(images[test], labels[test]),
            source=f"{origin}: real, {len(train):,} for training, {len(test):,} for testing",
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        images, labels = batch
        logits = model(images)
        return {
            "loss": functional.cross_entropy(logits, labels, reduction="sum"),
            "accuracy": (logits.argmax(dim=1) == labels).sum(),
        }

    def read_inputs(self, path: Path) -> Tensor:
        return read_images(path)

    def predict(self, model: nn.Module, inputs: Tensor) -> Sequence[Mapping[str, Any]]:
        """The most likely digit and how likely the model finds it."""
        chances, digits = model(inputs).softmax(dim=1).max(dim=1)
        pairs = zip(digits.tolist(), chances.tolist(), strict=True)
        return [{"digit": digit, "probability": chance} for digit, chance in pairs]


class Digits(DigitsTask):
    """With `SmallCNN`."""

    name = "digits"
    summary = "handwritten digits (1,797 real 8x8 images, embedded), small CNN, cross-entropy"
    defaults = TaskDefaults(batch_size=64, epochs=12, lr=3e-3, schedule="cosine", warmup_steps=20)

    def build_model(self) -> nn.Module:
        return SmallCNN(channels=1, side=8, classes=10)
