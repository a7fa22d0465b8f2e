"""Two features, two classes, binary cross-entropy; `binary_mse` is the same with the squared error."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.inputs import read_features
from adamesh.data.rings import two_rings
from adamesh.data.seeds import derived_seed
from adamesh.data.split import TensorSplit
from adamesh.errors import DataError
from adamesh.models.mlp import MLP
from adamesh.tasks.base import BinaryTask, Predicts, Scored, Splits, TaskDefaults

__all__ = ["Binary", "TwoRings"]

TRAIN_SAMPLES = 2048
TEST_SAMPLES = 1024
NOISE = 0.25


class TwoRings(Predicts, BinaryTask[tuple[Tensor, Tensor]]):
    """Which of two rings a point belongs to, by a small MLP; what is minimised is a subclass's.

    Either way both errors are reported: the log loss, and ``mse``, the mean squared error of the probability.
    """

    defaults = TaskDefaults(batch_size=64, epochs=15, lr=1e-2, weight_decay=0.0, schedule="cosine")

    @abstractmethod
    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is minimised, for each sample: [n] from [n] and [n]."""

    def build_model(self) -> nn.Module:
        return MLP(inputs=2, hidden=(16, 16), outputs=1)

    def load_data(self, data: Path | None, seed: int) -> Splits[tuple[Tensor, Tensor]]:
        if data is not None:
            raise DataError(f"data = {data}: this task generates its own data; leave data out")
        generator = torch.Generator().manual_seed(derived_seed("rings", seed))
        points, labels = two_rings(TRAIN_SAMPLES + TEST_SAMPLES, NOISE, generator)
        return Splits(
            train=TensorSplit(points[:TRAIN_SAMPLES], labels[:TRAIN_SAMPLES]),
            test=TensorSplit(points[TRAIN_SAMPLES:], labels[TRAIN_SAMPLES:]),
            source=f"generated: points on two rings, {TRAIN_SAMPLES:,} for training, {TEST_SAMPLES:,} for testing",
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        points, labels = batch
        return self.errors(model(points).squeeze(1), labels).mean()

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        points, labels = batch
        logits = model(points).squeeze(1)
        return {
            "loss": self.errors(logits, labels).sum(),
            "mse": (logits.sigmoid() - labels).square().sum(),
            "accuracy": ((logits > 0) == labels.bool()).sum(),
        }

    def scores(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Scored:
        points, labels = batch
        return model(points).squeeze(1), labels

    def read_inputs(self, path: Path) -> Tensor:
        """A point's two coordinates a line."""
        return read_features(path, columns=2)

    def predict(self, model: nn.Module, inputs: Tensor) -> Sequence[Mapping[str, Any]]:
        """The class, and how likely the model finds class 1."""
        chances = model(inputs).squeeze(1).sigmoid().tolist()
        return [{"class": int(chance > 0.5), "probability": chance} for chance in chances]


class Binary(TwoRings):
    """The likelihood's own loss."""

    name = "binary"
    summary = "two generated features, two classes, small MLP, binary cross-entropy"

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
