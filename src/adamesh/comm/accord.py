"""What workers tell each other outside the exchange of gradients: errors that all must raise, and decisions of one."""

import json
from typing import Any

from adamesh.comm.base import Communicator
from adamesh.errors import AdameshError

__all__ = ["agree", "first_says"]


def agree(world: Communicator, failure: AdameshError | None, kind: type[AdameshError], topic: str) -> None:
    """Raise, on every rank, if any has an error: its own, or as ``kind`` the first other's. Collective."""
    reasons = world.exchange(b"" if failure is None else str(failure).encode(), topic)
    if failure is not None:
        raise failure
    for rank, reason in enumerate(reasons):
        if reason:
            raise kind(f"on worker {rank}: {reason.decode()}")


def first_says(world: Communicator, content: Any) -> Any:
    """What the first worker gives, as JSON brings it, on every worker. Collective."""
    message = json.dumps(content).encode() if world.rank == 0 else b""
    return json.loads(world.exchange(message, "first says")[0])
