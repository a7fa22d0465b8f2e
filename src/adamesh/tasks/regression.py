"""Linear regression with the mean squared error, on data that is generated for the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamesh.data.inputs import read_features
from adamesh.data.seeds import derived_seed
from adamesh.data.split import TensorSplit
from adamesh.errors import DataError
from adamesh.tasks.base import Predicts, Splits, Task, TaskDefaults

__all__ = ["Regression"]

FEATURES = 8
TRAIN_SAMPLES = 1024
TEST_SAMPLES = 256
NOISE = 0.1


class Regression(Predicts, Task[tuple[Tensor, Tensor]]):
    """One target, mean squared error; a single linear layer."""

    name = "regression"
    summary = "linear regression on generated data, mean squared error"
    defaults = TaskDefaults(batch_size=64, epochs=20, lr=3e-2, weight_decay=0.0, schedule="cosine")

    def build_model(self) -> nn.Module:
        return nn.Linear(FEATURES, 1)

    def load_data(self, data: Path | None, seed: int) -> Splits[tuple[Tensor, Tensor]]:
        """Targets are a random linear function of normal inputs, plus normal noise."""
        if data is not None:
            raise DataError(f"data = {data}: the regression task generates its own data; leave data out")
        generator = torch.Generator().manual_seed(derived_seed("regression", seed))
        slope = torch.randn(FEATURES, 1, generator=generator)
        offset = torch.randn(1, generator=generator)
        inputs = torch.randn(TRAIN_SAMPLES + TEST_SAMPLES, FEATURES, generator=generator)
        noise = NOISE * torch.randn(len(inputs), 1, generator=generator)
        targets = inputs @ slope + offset + noise
        return Splits(
            train=TensorSplit(inputs[:TRAIN_SAMPLES], targets[:TRAIN_SAMPLES]),
            test=TensorSplit(inputs[TRAIN_SAMPLES:], targets[TRAIN_SAMPLES:]),
            source=f"generated: {FEATURES} features, {TRAIN_SAMPLES:,} for training, {TEST_SAMPLES:,} "
            f"for testing; the noise makes a loss of {NOISE**2:g}",
        )

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return functional.mse_loss(model(inputs), targets)

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
        inputs, targets = batch
        error = model(inputs) - targets
        return {"loss": error.square().sum(), "absolute_error": error.abs().sum()}

    def read_inputs(self, path: Path) -> Tensor:
        """The features, a sample a line."""
        return read_features(path, FEATURES)

    def predict(self, model: nn.Module, inputs: Tensor) -> Sequence[Mapping[str, Any]]:
        """The target."""
        return [{"target": target} for target in model(inputs).squeeze(1).tolist()]
