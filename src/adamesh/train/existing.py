"""Under a launcher that already started all workers: torchrun, Slurm, Ray."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from adamesh.errors import ConfigurationError

if TYPE_CHECKING:
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

__all__ = ["first_decides", "is_present", "world_size"]

_REFUSED = "refused"

# The first worker's store serves the others until this process ends.
_kept: "list[TCPStore]" = []


def is_present() -> bool:
    """Whether this process is one of several that somebody else started."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def world_size() -> int:
    """The number of workers that were started."""
    return int(os.environ["WORLD_SIZE"])


def first_decides(choose: Callable[[], Path]) -> Path:
    """The folder that ``choose`` returns on the first worker, on every worker.

    Raises:
        ConfigurationError: ``choose`` raised on the first worker, or the environment is incomplete.
    """
    rank = int(os.environ["RANK"])
    if world_size() == 1:
        return choose()
    store = _store(rank)
    if rank > 0:
        answer: str = store.get("folder").decode()
        if answer == _REFUSED:
            raise ConfigurationError("the first worker found the configuration wrong; its message says why")
        return Path(answer)
    try:
        folder = choose().resolve()
    except Exception:
        # The others are waiting for an answer.
        store.set("folder", _REFUSED)
        raise
    store.set("folder", str(folder))
    return folder


def _store(rank: int) -> "PrefixStore":
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except KeyError as error:
        raise ConfigurationError(
            f"RANK and WORLD_SIZE are set, {error.args[0]} is not: workers cannot find each other; set it as "
            "torchrun does, or unset RANK to let adamesh start the workers"
        ) from None
    # torchrun's agent may serve the store itself. Else the first worker does, and `multi_tenant` lets the
    # process group share the server later.
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(host, port, world_size(), is_master=rank == 0 and not served, multi_tenant=True)
    _kept.append(store)
    # A restarted group must not find the answer of the one before.
    return PrefixStore(f"adamesh/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
