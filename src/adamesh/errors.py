"""Every error adamesh raises, as one tree.

Each message names the value that was wrong, the rule it broke, and what to do about it. Errors that a
caller can cause are also ``ValueError``s; errors of the world around us are also ``RuntimeError``s.
"""

import errno
from typing import Self


class AdameshError(Exception):
    """The root: ``except adamesh.AdameshError`` catches everything adamesh raises on purpose."""


class ConfigurationError(AdameshError, ValueError):
    """A value given by the caller is out of range, misspelt, or of the wrong kind."""


class IncompatiblePlan(ConfigurationError):
    """Two settings of a `adamesh.Plan` that are unsound together."""


class LayoutError(ConfigurationError):
    """Parameters cannot be laid out in buckets, or ranks disagree about how they are."""


class GradientError(AdameshError, ValueError):
    """A gradient is of a kind that cannot be sent, or was changed after it was sent."""


class ParameterError(AdameshError, ValueError):
    """A parameter was changed, moved or replaced in a way that the replicas cannot follow."""


class CommunicationError(AdameshError, RuntimeError):
    """A collective did not complete."""


class PeerLost(CommunicationError):
    """Another worker died, left, or failed while this one waited for it."""


class CommunicationTimeout(CommunicationError):
    """Another worker did not take part in a collective in time."""


class Expelled(CommunicationError):
    """The other workers have gone on without this one, which they took for dead; or it has asked to go."""


class QuorumLost(CommunicationError):
    """Too few workers are left to be sure that the others are not going on elsewhere."""


class StepOutOfSync(AdameshError, RuntimeError):
    """Workers are at different steps, or one of them failed inside a step: the step was aborted."""


class StateLost(AdameshError, RuntimeError):
    """A commit was cut short: this optimizer's state is torn and refuses to go on until loaded."""


class CannotCompile(AdameshError, RuntimeError):
    """There is no compiler for codecs here, or what it makes of them is not the same to the bit."""


class CheckpointError(AdameshError, ValueError):
    """A checkpoint is missing, incomplete, altered, or does not fit the model."""


class DataError(AdameshError, ValueError):
    """A data file is missing, truncated, altered, or not in the format it claims."""


class DownloadError(AdameshError, RuntimeError):
    """A file could not be fetched: the network, the server or the disk failed. What has arrived is kept."""


class DiskFull(AdameshError, RuntimeError):
    """There is no room for what is to be written. What was there before is kept."""

    @staticmethod
    def is_behind(error: BaseException) -> bool:
        """Whether that is what another error says; safetensors says it in words only."""
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno in (errno.ENOSPC, errno.EDQUOT)
        return f"os error {errno.ENOSPC}" in str(error)

    @classmethod
    def at(cls, place: object, kept: str) -> Self:
        """The error for a place.

        Args:
            place: a file or a folder.
            kept: what is left of what should be there.
        """
        return cls(f"{place}: the disk is full; {kept}; free space on it, or choose a place on another")


class Diverged(AdameshError, RuntimeError):
    """Training cannot go on: the loss or the gradient is not finite any more."""
