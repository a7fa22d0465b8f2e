"""Is it an aeroplane? One class of CIFAR-10 against the nine others, with AUC, precision and recall."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.cifar import CIFAR10_CLASSES
from adamesh.models.cnn import PoolingCNN
from adamesh.tasks.base import BinaryTask, Predicts, Splits, TaskDefaults
from adamesh.tasks.images import Batch, Named, cifar10_photos, cifar10_splits

__all__ = ["Cifar10Airplane"]

POSITIVE = CIFAR10_CLASSES.index("airplane")


class Cifar10Airplane(Predicts, BinaryTask[Batch]):
    """Binary cross-entropy; `PoolingCNN` with one output. One image in ten is an aeroplane."""

    name = "cifar10-airplane"
    summary = "CIFAR-10, aeroplane or not, small CNN, binary cross-entropy"
    defaults = TaskDefaults(batch_size=128, epochs=10, lr=3e-3, schedule="cosine", warmup_steps=50)

    def build_model(self) -> nn.Module:
        return PoolingCNN(channels=3, side=32, classes=1)

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        return cifar10_splits(data, seed, drawn=1500)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits, is_positive = self.scores(model, batch)
        return functional.binary_cross_entropy_with_logits(logits, is_positive)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        logits, is_positive = self.scores(model, batch)
        return {
            "loss": functional.binary_cross_entropy_with_logits(logits, is_positive, reduction="sum"),
            "accuracy": ((logits > 0) == (is_positive > 0)).sum(),
        }

    def scores(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = batch
        logits: Tensor = model(images).squeeze(1)
        return logits, (labels == POSITIVE).to(logits.dtype)

    def read_inputs(self, path: Path) -> Named:
        return cifar10_photos(path)

    def predict(self, model: nn.Module, inputs: Named) -> Sequence[Mapping[str, Any]]:
        """How likely the model finds an aeroplane."""
        names, images = inputs
        chances = model(images).squeeze(1).sigmoid()
        return [{"file": name, "airplane": chance} for name, chance in zip(names, chances.tolist(), strict=True)]
