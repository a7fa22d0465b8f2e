"""A worker's share of the tensors as it was at one moment, in CPU memory that the next snapshot uses again."""

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["Snapshot"]


class Snapshot:
    """Copies of tensors, file by file; what is copied may change as soon as :meth:`finish` has returned."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, Tensor]] = {}
        """File -> key -> copy, on the CPU."""
        self._spare: dict[tuple[str, str], Tensor] = {}
        """Of the snapshot before: by what the file holds, and key."""
        self._on_gpu = False

    def begin(self) -> None:
        """Forget the last copies, and keep their memory."""
        self._spare |= {(_kind(file), key): copy for file, copies in self.files.items() for key, copy in copies.items()}
        self.files = {}

    def put(self, file: str, tensors: Mapping[str, Tensor]) -> None:
        """Copy the tensors of one file; copies from a GPU may still be on their way."""
        copies = {}
        for key, tensor in tensors.items():
            spare = self._spare.pop((_kind(file), key), None)
            if spare is None or spare.shape != tensor.shape or spare.dtype != tensor.dtype:
                spare = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
            copies[key] = spare.copy_(tensor, non_blocking=tensor.is_cuda)
            self._on_gpu |= tensor.is_cuda
        self.files[file] = copies

    def finish(self) -> None:
        """Wait for the copies, and let go of memory that they did not need."""
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()
        self._on_gpu = False
        self._spare.clear()


def _kind(file: str) -> str:
    return file.partition("-")[0]
