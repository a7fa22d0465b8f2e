"""The few ways a checkpoint touches a disk, so that a test can cut each of them short."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

__all__ = ["Disk", "digest"]

_CHUNK = 1 << 22


class Disk:
    """Durable writes: what a write returns from has reached the disk."""

    def make_folder(self, path: Path) -> None:
        """Make a folder, and its parents; :meth:`keep_folder` makes that durable."""
        path.mkdir(parents=True, exist_ok=True)

    def claim(self, path: Path) -> None:
        """Make an empty file that must not be there yet; not durable, as it only has to outlive this process."""
        path.open("x").close()

    def keep_folder(self, path: Path) -> None:
        """Force the name of a folder to the disk."""
        self._sync(path.parent)

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write one safetensors file and force it to the disk."""
        save_file(dict(tensors), path)
        path.chmod(path.parent.stat().st_mode & 0o666)  # safetensors lets only the owner read it
        self._sync(path)
        self._sync(path.parent)

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file and force it to the disk."""
        path.write_bytes(text.encode())
        self._sync(path)
        self._sync(path.parent)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file its final name, atomically, and force the name to the disk."""
        os.replace(source, target)
        self._sync(target.parent)

    def remove(self, path: Path) -> None:
        """Remove a file that nothing refers to any more."""
        path.unlink(missing_ok=True)

    @staticmethod
    def _sync(path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
