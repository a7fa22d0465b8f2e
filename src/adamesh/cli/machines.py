"""Where the workers of a run meet that may come and go, on one machine or several: torchrun's names for it."""

import time
from dataclasses import dataclass
from pathlib import Path

from adamesh.errors import ConfigurationError

__all__ = ["Machines"]

_AWAIT_S = 120.0


@dataclass(frozen=True)
class Machines:
    """As torchrun has it; only for runs with --elastic, which start nproc workers on each machine."""

    nnodes: int = 1
    """Machines that the run begins on; more may join later."""
    node_rank: int = 0
    """The number of this one, from 0; number 0 makes the run's folder, --out, on a disk that all see."""
    rdzv_endpoint: str | None = None
    """HOST:PORT of machine 0, where the first workers meet. Needed with several machines."""
    respawn: bool = True
    """Start a worker again that was killed, or that the others have taken for dead; not where somebody else does."""

    def check(self, elastic: str | None, out: Path | None) -> None:
        """Raise what is wrong.

        Raises:
            ConfigurationError: options do not fit each other.
        """
        if self == Machines():
            return
        if elastic is None:
            raise ConfigurationError(
                "--nnodes, --node-rank, --rdzv-endpoint and --no-respawn belong to runs whose workers come and go: add "
                "--elastic MIN:MAX, or start a fixed number of workers with torchrun"
            )
        if not 0 <= self.node_rank < self.nnodes:
            raise ConfigurationError(f"--node-rank {self.node_rank}: must be from 0 to {self.nnodes - 1}, --nnodes - 1")
        if self.nnodes > 1 and (self.address is None or out is None):
            raise ConfigurationError(
                f"--nnodes {self.nnodes}: all machines need --rdzv-endpoint HOST:PORT of machine 0, and --out DIR on a "
                "disk that all of them see"
            )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of the endpoint.

        Raises:
            ConfigurationError: it is none.
        """
        if self.rdzv_endpoint is None:
            return None
        host, colon, port = self.rdzv_endpoint.rpartition(":")
        if not colon or not port.isdecimal():
            raise ConfigurationError(f"--rdzv-endpoint {self.rdzv_endpoint}: must be HOST:PORT, as in 10.0.0.5:29500")
        return host, int(port)

    @staticmethod
    def await_folder(folder: Path) -> Path:
        """The run's folder, once machine 0 has made it.

        Raises:
            ConfigurationError: it does not.
        """
        deadline = time.monotonic() + _AWAIT_S
        while not (folder / "config.toml").is_file():
            if time.monotonic() >= deadline:
                raise ConfigurationError(
                    f"{folder}: machine 0 has not made the run's folder within {_AWAIT_S:.0f} s; start it there with "
                    "--node-rank 0, and see that --out is on a disk that all machines see"
                )
            time.sleep(0.2)
        return folder
