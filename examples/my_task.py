"""A task of your own is one file like this one, with a subclass of `Task`.

    adamesh train examples/my_task.py                        generated data
    adamesh train examples/my_task.py --data table.csv       your own: numbers, the target in the last column
    adamesh check examples/my_task.py                        does it train as with torch.optim.AdamW?

`plain_loop.py`, beside it, trains the same model without the trainer.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from adamesh.data.split import TensorSplit
from adamesh.errors import DataError
from adamesh.tasks.base import Splits, Task, TaskDefaults

Batch = tuple[Tensor, Tensor]  # what a split's batch() returns and the methods below get


class MyTask(Task[Batch]):
    """Regression with a small network."""

    name = "my-task"
    summary = "regression on a table of numbers, mean squared error"
    # Used where neither a configuration file nor the command line says otherwise.
    defaults = TaskDefaults(batch_size=64, epochs=20, lr=1e-2, schedule="cosine")
    sized_by_data = True  # build_model below needs what load_data found; leave it out where it does not

    def load_data(self, data: Path | None, seed: int) -> Splits[Batch]:
        """Called once on every worker, which must all get the same."""
        table = generated_table(seed) if data is None else read_table(data)
        self.num_inputs = table.shape[1] - 1
        num_test = len(table) // 5
        inputs, targets = table[:, :-1], table[:, -1:]
        return Splits(
            train=TensorSplit(inputs[num_test:], targets[num_test:]),
            test=TensorSplit(inputs[:num_test], targets[:num_test]),
            source=f"{'generated' if data is None else f'real, from {data}'}: {len(table):,} rows",
        )

    def build_model(self) -> nn.Module:
        """Torch's random state has been seeded; the trainer moves the model to its device."""
        return nn.Sequential(nn.Linear(self.num_inputs, 32), nn.Tanh(), nn.Linear(32, 1))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The MEAN over the batch, which is this worker's part of the global one."""
        inputs, targets = batch
        return nn.functional.mse_loss(model(inputs), targets)

    def metrics(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """SUMS over the batch; evaluation adds them up over all workers and divides by the number of samples."""
        inputs, targets = batch
        error = model(inputs) - targets
        return {"loss": error.square().sum(), "absolute_error": error.abs().sum()}


def generated_table(seed: int) -> Tensor:
    """Two inputs and the target sin(a) * cos(b), 2,000 rows."""
    inputs = 4 * torch.rand(2000, 2, generator=torch.Generator().manual_seed(seed)) - 2
    return torch.cat([inputs, inputs[:, :1].sin() * inputs[:, 1:].cos()], dim=1)


def read_table(path: Path) -> Tensor:
    """A `DataError` ends the run with its one line, and no traceback."""
    try:
        rows = [[float(word) for word in line.split(",")] for line in path.read_text().splitlines()]
        table = torch.tensor(rows)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is no table of numbers: {error}") from error
    if table.ndim != 2 or table.shape[1] < 2 or len(table) < 5:
        raise DataError(f"{path}: must have at least 5 rows and 2 columns, not {tuple(table.shape)}")
    return table
