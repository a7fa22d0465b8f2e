"""A disk on which one chosen operation goes wrong: before it begins, half way, or when it is done."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from adamesh.checkpoint.disk import Disk

BEFORE, HALF_WAY, AFTER = MOMENTS = ("before", "half way", "after")


class Killed(BaseException):
    """What ends a worker in the middle of a save, as far as a thread can be ended: nothing catches it."""


@dataclass
class FaultyDisk(Disk):
    """Lets ``happen()`` happen at operation number ``number``, at one of MOMENTS; None: only counts.

    Half way through a file means the worst: half of its bytes, under its final name.
    """

    number: int | None
    moment: str = BEFORE
    happen: Callable[[], None] = lambda: None
    operations: list[str] = field(default_factory=list)

    def make_folder(self, path: Path) -> None:
        def make() -> None:
            Disk.make_folder(self, path)

        self._perform("make_folder", make, make)

    def claim(self, path: Path) -> None:
        self._perform("claim", lambda: Disk.claim(self, path), lambda: None)

    def keep_folder(self, path: Path) -> None:
        self._perform("keep_folder", lambda: None, lambda: None)

    def write_tensors(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        def half() -> None:
            Disk.write_tensors(self, path, tensors)
            os.truncate(path, path.stat().st_size // 2)
            path.with_name(".tmpAb12cD").write_bytes(b"what safetensors leaves behind")

        self._perform("write_tensors", lambda: Disk.write_tensors(self, path, tensors), half)

    def write_text(self, path: Path, text: str) -> None:
        def write(length: int) -> None:
            Disk.write_text(self, path, text[:length])

        self._perform("write_text", lambda: write(len(text)), lambda: write(len(text) // 2))

    def replace(self, source: Path, target: Path) -> None:
        self._perform("replace", lambda: Disk.replace(self, source, target), lambda: os.replace(source, target))

    def remove(self, path: Path) -> None:
        self._perform("remove", lambda: Disk.remove(self, path), lambda: None)

    @staticmethod
    def _sync(path: Path) -> None:
        """Not needed where only a thread or a process ends, and slow."""

    def _perform(self, name: str, whole: Callable[[], None], half: Callable[[], None]) -> None:
        self.operations.append(name)
        if len(self.operations) - 1 != self.number:
            whole()
        else:
            {BEFORE: lambda: None, HALF_WAY: half, AFTER: whole}[self.moment]()
            self.happen()


def kill_thread() -> None:
    raise Killed


def kill_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
