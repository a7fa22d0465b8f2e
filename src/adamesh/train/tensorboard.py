"""The numbers of metrics.jsonl for TensorBoard, too."""

from collections.abc import Mapping
from pathlib import Path

from adamesh.errors import ConfigurationError

__all__ = ["TensorBoard"]

_NOT_CURVES = ("step", "samples", "epoch")


class TensorBoard:
    """An event file in a folder; ``tensorboard --logdir runs`` shows all runs' side by side.

    Args:
        folder: made if it is not there.
        last_step: the step of the checkpoint that the run starts from: what came after it is not shown any more.

    Raises:
        ConfigurationError: the package is not installed.
    """

    def __init__(self, folder: Path, last_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigurationError(
                "tensorboard = true: the package tensorboard is not installed; pip install 'adamesh[tensorboard]', "
                "or leave it out"
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=last_step + 1)

    def write(self, record: Mapping[str, float]) -> None:
        """A line of metrics.jsonl."""
        for name, value in record.items():
            if name not in _NOT_CURVES:
                self._writer.add_scalar(_tag(name), value, int(record["step"]))

    def close(self) -> None:
        self._writer.close()


def _tag(name: str) -> str:
    """Curves that belong together share the part before the slash."""
    for group in ("eval", "train"):
        if name.startswith(f"{group}_"):
            return f"{group}/{name.removeprefix(f'{group}_')}"
    return f"step/{name}"
