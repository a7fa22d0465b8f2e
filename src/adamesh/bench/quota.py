"""A share of a processor for this process, by a control group of its own."""

import os
from pathlib import Path

from adamesh.errors import ConfigurationError

__all__ = ["Quota"]

_PERIOD_US = 10_000
"""Short, so that a quota slows a step evenly."""


class Quota:
    """This process's control group, until it is closed."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._root = root

    @classmethod
    def of_processor(cls, part: float) -> "Quota":
        """Move this process to a new group that gets ``part`` of one processor's time.

        Raises:
            ConfigurationError: control groups cannot be written to here.
        """
        unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        root = Path("/sys/fs/cgroup" if unified else "/sys/fs/cgroup/cpu")
        folder = root / f"adamesh-{os.getpid()}"
        quota_us = max(1000, round(part * _PERIOD_US))
        try:
            folder.mkdir()
            if unified:
                (folder / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
            else:
                (folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (folder / "cpu.cfs_quota_us").write_text(str(quota_us))
            (folder / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            raise ConfigurationError(
                f"--by quota: {folder} cannot be set up ({error.strerror or error}): run as root where control groups "
                "of processors can be written to, or take --by sleep"
            ) from error
        return cls(folder, root)

    def close(self) -> None:
        """Go back to the group of all, and remove this one."""
        (self._root / "cgroup.procs").write_text(str(os.getpid()))
        self._folder.rmdir()
