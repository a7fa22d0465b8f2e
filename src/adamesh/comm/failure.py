"""What a torch.distributed error means."""

import re
from collections.abc import Sequence

import torch.distributed as dist

from adamesh.errors import CommunicationError, CommunicationTimeout, PeerLost

__all__ = ["translated", "wait_for"]

TIMED_OUT = re.compile(r"time[d]?\s?-?out", re.IGNORECASE)
CONNECTION = re.compile(
    r"gloo/transport|connection|socket|broken pipe|read error|writev|remote process|"
    r"ncclRemoteError|ncclSystemError|ncclInternalError|communicator was aborted",
    re.IGNORECASE,
)


def translated(error: RuntimeError, what: str) -> CommunicationError:
    """What torch's error means: backends have one type for everything, so its text decides."""
    said = f"torch.distributed said: {error}"
    if TIMED_OUT.search(str(error)):
        return CommunicationTimeout(
            f"{what}: another worker did not take part in time; see whether one hangs, is much slower "
            f"or took another path, or raise timeout_s. {said}"
        )
    if CONNECTION.search(str(error)):
        return PeerLost(
            f"{what}: another worker died or left; look at its own output for the reason, "
            f"then start again from the last checkpoint. {said}"
        )
    return CommunicationError(f"{what}: failed to complete; this communicator cannot be used again. {said}")


def wait_for(works: Sequence[dist.Work], what: str) -> None:
    """Wait for all of ``works``; an error is translated, and says that ``what`` failed."""
    try:
        for work in works:
            work.wait()
    except RuntimeError as error:
        raise translated(error, what) from error
