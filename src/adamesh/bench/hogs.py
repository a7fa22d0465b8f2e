"""Processes that keep the cores busy, beside what is measured."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["hogs"]

_PROGRAM = "import os\nwhile os.getppid() == int(__import__('sys').argv[1]): sum(range(100_000))"


@contextmanager
def hogs(num: int) -> Iterator[None]:
    """A context with so many of them. They end with this process, however it ends."""
    running = [subprocess.Popen([sys.executable, "-c", _PROGRAM, str(os.getpid())]) for _ in range(num)]
    try:
        yield
    finally:
        for hog in running:
            hog.kill()
        for hog in running:
            hog.wait()
