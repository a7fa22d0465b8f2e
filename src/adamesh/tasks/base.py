"""What a task is: data, model, loss and metrics. A task of your own is one file with a subclass of `Task`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from adamesh.data.split import Split

__all__ = ["BinaryTask", "Predicts", "Scored", "Splits", "Task", "TaskDefaults"]

BatchT = TypeVar("BatchT")

Scored = tuple[Tensor, Tensor]
"""Logits (floating point, shape [n]; above 0: the positive class) and labels (0 or 1, shape [n])."""


@dataclass(frozen=True)
class TaskDefaults:
    """What is used where neither the configuration nor the command line says otherwise."""

    batch_size: int = 64
    """Samples per optimizer step, over all workers together."""
    steps: int | None = None
    epochs: int | None = 10
    """One of ``steps`` and ``epochs`` is set, the other None."""
    lr: float = 1e-3
    weight_decay: float | None = None
    """None: what torch's optimizer of that name has."""
    schedule: str = "constant"
    warmup_steps: int = 0


@dataclass(frozen=True)
class Splits(Generic[BatchT]):
    """The data of one run. Every worker holds all of it, or a view of it, and fetches its own part."""

    train: Split[BatchT]
    test: Split[BatchT]
    source: str
    """One line for the run's header: which data this is, how much, real or generated."""


class Task(ABC, Generic[BatchT]):
    """Something to train. ``BatchT`` is what a split's ``batch()`` returns and ``loss`` takes.

    A batch is a tensor, or a tuple, list or dict of batches; the trainer moves it to the device. A file of
    your own that subclasses this trains with ``adamesh train my_task.py``.
    """

    name: ClassVar[str]
    """What the command line calls it, lower case with dashes."""
    summary: ClassVar[str]
    """One line for ``adamesh tasks``."""
    sizes: ClassVar[tuple[str, ...]] = ()
    """The sizes that the model comes in, if any: the names that ``__init__`` takes as its one argument, with a
    default. ``adamesh train NAME:SIZE`` chooses one."""
    defaults: TaskDefaults = TaskDefaults()
    sized_by_data: ClassVar[bool] = False
    """`build_model` needs what `load_data` has found: the size of a vocabulary, say. Training loads first anyway."""

    @abstractmethod
    def build_model(self) -> nn.Module:
        """A freshly initialised model on the CPU; torch's random state has been seeded by the caller."""

    @abstractmethod
    def load_data(self, data: Path | None, seed: int) -> Splits[BatchT]:
        """Read, or generate, the data; the same on every worker for the same arguments.

        Args:
            data: where the user's data lies; None: data that ships with the package, or is generated.
            seed: the run's seed. Generated data may depend on it; how real data is split should not.

        Raises:
            DataError: the data is missing, damaged, or not what it should be.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: BatchT) -> Tensor:
        """The MEAN loss over the batch's samples, a scalar to differentiate.

        Workers' losses are weighted by their sample counts, so a mean over samples makes any cut of the
        batch over workers give the gradient of the whole batch.
        """

    @abstractmethod
    def metrics(self, model: nn.Module, batch: BatchT) -> Mapping[str, Tensor]:
        """Name to SUM over the batch's samples (scalar tensors, always the same names), "loss" among them.

        Called without gradients and with the model in evaluation mode. Sums are added over batches and
        workers and divided by the number of samples: exact however the data is cut.
        """


class BinaryTask(Task[BatchT]):
    """A task of two classes: evaluation adds AUC, precision, recall and log loss, also of parts and of rivals."""

    @abstractmethod
    def scores(self, model: nn.Module, batch: BatchT) -> Scored | Mapping[str, Scored]:
        """Logits and labels, or several such pairs by name, always the same names.

        A name is put before the metrics: "baseline" makes ``baseline_auc``; "" stands for the model itself. A
        pair may have fewer samples than the batch, or none: so a part of the data is reported apart.

        Called without gradients and with the model in evaluation mode.
        """


class Predicts(ABC):
    """What a task adds so that ``adamesh predict`` can use its trained models: inherit from it beside `Task`."""

    predicts_by_data: ClassVar[bool] = False
    """It needs what `load_data` has found in the run's data: a vocabulary, say."""

    @abstractmethod
    def read_inputs(self, path: Path) -> Any:
        """Read inputs without targets, in whatever form `predict` takes them.

        Raises:
            DataError: the file is missing, damaged, or not what it should be.
        """

    @abstractmethod
    def predict(self, model: nn.Module, inputs: Any) -> Sequence[Mapping[str, Any]]:
        """One record of plain values (numbers, texts, lists) for each input, in order.

        Called without gradients and with the model in evaluation mode, on the CPU.
        """
