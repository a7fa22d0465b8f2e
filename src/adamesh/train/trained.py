"""What a run has learnt, without what it needed to learn it: to predict with, or to hand on."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from adamesh.checkpoint.load import load_model
from adamesh.errors import CheckpointError, ConfigurationError, DataError, DiskFull
from adamesh.tasks.base import Predicts, Task
from adamesh.tasks.catalog import find_task
from adamesh.train.checkpoints import CheckpointFolder
from adamesh.train.config import load_config
from adamesh.train.workers import GroupWorkers

__all__ = ["Trained", "export", "predictions"]

Which = Literal["best", "latest"]


class Trained:
    """The model of a run's checkpoint, in evaluation mode on the CPU.

    Args:
        run: the run's folder.
        which: the checkpoint of the best evaluation, or the latest.

    Raises:
        ConfigurationError: there is no run in the folder.
        CheckpointError: it has no such checkpoint, or that is damaged.
        DataError: the model is sized by the run's data, and they cannot be read any more.
    """

    def __init__(self, run: Path, which: Which) -> None:
        if not (run / "config.toml").is_file():
            raise ConfigurationError(f"{run}: holds no run (no config.toml); give the folder of one")
        config = load_config(run / "config.toml")
        folder = run / {"best": "best", "latest": "checkpoints"}[which]
        saved = CheckpointFolder(folder, GroupWorkers(0, 1, group=None), keep=1).candidates() if folder.is_dir() else []
        if not saved:
            other = {"best": "latest", "latest": "best"}[which]
            raise CheckpointError(f"{folder} holds no checkpoint; train on, or take --checkpoint {other}")
        self.task: Task[Any] = find_task(config.task)
        self._config = config
        self._num_samples: int | None = None
        if self.task.sized_by_data:
            self.load_data()
        torch.manual_seed(0)
        self.model: nn.Module = self.task.build_model()
        extra = load_model(folder / saved[0].name, self.model)
        self.model.eval()
        self.step = saved[0].step
        self.evaluation: Mapping[str, float] = extra["totals"]["evaluation"]
        self._num_trained_on: int = extra["order"]["samples"]

    def load_data(self) -> None:
        """Let the task find in the run's data what it found when the run was trained; once is enough.

        Raises:
            DataError: they cannot be read any more.
        """
        if self._num_samples is None:
            self._num_samples = len(self.task.load_data(self._config.data, self._config.seed).train)

    def require_same_data(self) -> None:
        """Refuse data that have changed since: a user, or a word, might have another's number.

        Raises:
            DataError: there is another number of samples to train on.
        """
        self.load_data()
        if self._num_samples != self._num_trained_on:
            raise DataError(
                f"data = {self._config.data}: has {self._num_samples:,} samples for training, and the model was "
                f"trained on {self._num_trained_on:,}; restore the data, or train again"
            )


def export(trained: Trained, file: Path) -> int:
    """Write parameters and buffers as one safetensors file, named as in the model; returns its bytes.

    Task, step and metrics are in its metadata. The file appears whole or not at all.

    Raises:
        ConfigurationError: it cannot be written.
        DiskFull: there is no room; what was there before is kept.
    """
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in trained.model.state_dict().items()}
    metadata = {
        "format": "pt",
        "task": trained.task.name,
        "step": str(trained.step),
        "evaluation": json.dumps(trained.evaluation),
    }
    part = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata)
        os.replace(part, file)
    except Exception as error:  # safetensors has an exception of its own for a full disk
        with suppress(OSError):
            part.unlink(missing_ok=True)
        if DiskFull.is_behind(error):
            raise DiskFull.at(file, "nothing was exported, and what was there before is kept") from error
        raise ConfigurationError(f"{file}: cannot be written ({error}); choose another --out") from error
    return file.stat().st_size


def predictions(trained: Trained, path: Path) -> Sequence[Mapping[str, Any]]:
    """A record for each input in a file of the task's own kind.

    Raises:
        ConfigurationError: the task cannot predict.
        DataError: the inputs are not what they should be.
    """
    task = trained.task
    if not isinstance(task, Predicts):
        raise ConfigurationError(
            f"the task {task.name} cannot predict: it does not say how inputs without targets are read. Let its class "
            "inherit from adamesh.tasks.base.Predicts too, or use the model itself: adamesh export"
        )
    if task.predicts_by_data:
        trained.require_same_data()
    inputs = task.read_inputs(path)
    with torch.no_grad():
        return task.predict(trained.model, inputs)
