"""Pre-trained weights: a safetensors file's tensors into a model that was built anew."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from adamesh.errors import DataError

__all__ = ["load_weights"]


def load_weights(model: nn.Module, path: Path) -> str:
    """Copy the file's tensors into the model's parameters and buffers of the same names.

    The head, which is the model's last module with parameters of its own, may be missing or have another
    shape: it stays as it was initialised. Batch norm's counts of batches may be missing too.

    Args:
        model: on any device, in any precision; unchanged if an error is raised.
        path: a safetensors file, such as torchvision's state dict saved as one.

    Returns:
        One line on what was loaded and what was not.

    Raises:
        DataError: the file is missing or damaged, or another name or shape does not match.
    """
    try:
        given = load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"weights = {path}: no such file; give a safetensors file") from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"weights = {path}: is no readable safetensors file ({error}); get it again") from error
    wanted = model.state_dict()
    head = _head(model)
    misfits = [name for name in sorted(wanted.keys() | given.keys()) if not _fits(name, given, wanted)]
    others = [name for name in misfits if name.rpartition(".")[0] != head]
    if others:
        name, more = others[0], f" (and {len(others) - 1} more like it)" if len(others) > 1 else ""
        raise DataError(
            f"weights = {path}: {name} is {_described(given.get(name))} in the file and {_described(wanted.get(name))} "
            f"in the model{more}; only the head, {head}, may differ: give weights of the same network"
        )
    taken = [name for name in given if not (misfits and name.rpartition(".")[0] == head)]
    with torch.no_grad():
        for name in taken:
            wanted[name].copy_(given[name])
    line = f"{len(taken)} tensors from {path}"
    return f"{line}; {head} does not match and is left as initialised" if misfits else line


def _head(model: nn.Module) -> str:
    """The name of the last module with parameters of its own."""
    return next(reversed([name.rpartition(".")[0] for name, _ in model.named_parameters()]))


def _fits(name: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    if name in given and name in wanted:
        return given[name].shape == wanted[name].shape
    # Older state dicts have no counts, which only matter to a batch norm without momentum.
    return name in wanted and name.endswith("num_batches_tracked")


def _described(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"of shape {list(tensor.shape)}"
