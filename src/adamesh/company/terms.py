"""On what terms a worker takes part in a company."""

import math
from dataclasses import dataclass, field

from adamesh.errors import ConfigurationError
from adamesh.membership.settings import Patience

__all__ = ["Terms"]


@dataclass(frozen=True)
class Terms:
    """What a worker brings along.

    Raises:
        ConfigurationError: there is no token, or a time is not positive.
    """

    host: str
    """Where the other workers reach this host."""
    token: str
    """A secret that all workers of the run know, and nobody else."""
    label: str = ""
    """What this worker's name begins with; its founding rank, or "new", if empty."""
    patience: Patience = field(default_factory=Patience)
    timeout_s: float = 1800.0
    """How long one transfer may take, seconds. Who is lost is found much earlier."""
    arrival_s: float = 300.0
    """How long founders wait for each other, and a newcomer to be let in, seconds."""

    def __post_init__(self) -> None:
        if not self.token:
            raise ConfigurationError("token='' lets anybody in: give the workers of a run a secret of their own")
        for name in ("timeout_s", "arrival_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name}={getattr(self, name)} must be a positive number of seconds")
