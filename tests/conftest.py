"""What all tests share: worker processes, started once; disks that fill up."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.process_pool import ProcessPool

# How long an example takes says how busy the machine is, not whether the law holds.
hypothesis.settings.register_profile("adamesh", deadline=None)
hypothesis.settings.load_profile("adamesh")


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_rank() -> None:
    """Ranks are many and cores are few; and sums then never depend on how many there are."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPool]:
    """Four worker processes, to be run 1 to 4 at a time."""
    pool = ProcessPool(4)
    yield pool
    pool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a real file system of so many kB, where this process may mount one."""
    mount, umount = (shutil.which(name) or name for name in ("mount", "umount"))
    with ExitStack() as mounted:

        def make(kilobytes: int) -> Path:
            place = tmp_path / f"disk-{kilobytes}"
            place.mkdir()
            command = [mount, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
            made = subprocess.run(command, capture_output=True, check=False)
            if made.returncode:
                pytest.skip(f"cannot mount a small disk here: {made.stderr.decode().strip()}")
            mounted.callback(subprocess.run, [umount, str(place)], check=True)
            return place

        yield make
