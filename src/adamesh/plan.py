"""The plan: one frozen record of every choice about how workers share the work."""

from dataclasses import dataclass, field

from torch.distributed.device_mesh import DeviceMesh

from adamesh.comm.base import Mesh
from adamesh.errors import ConfigurationError
from adamesh.sync.base import Schedule
from adamesh.sync.every_step import EveryStep

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """How an optimizer spreads over its workers. The default is exact and agrees every step.

    Example:
        >>> Plan(max_grad_norm=1.0).bucket_mb
        25
    """

    mesh: DeviceMesh | Mesh | None = None
    """Axes ``("replicate", "shard")``. None: one island of the default process group, or world size 1."""

    sync: Schedule = field(default_factory=EveryStep)
    """When islands agree."""

    max_grad_norm: float | None = None
    """Clip the global norm of the mean gradient to this, exactly as ``clip_grad_norm_`` would."""

    overlap: bool = True
    """Send gradients while backward runs. False: send in ``step()``, so that ``p.grad`` may be edited before."""

    bucket_mb: float = 25
    """MiB of parameters that travel as one."""

    timeout_s: float | None = None
    """How long to wait for another worker; None: what ``torch.distributed`` uses by default."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise what is wrong with this plan.

        Raises:
            ConfigurationError: a value is out of range.
            IncompatiblePlan: two settings are unsound together (no two of today's are).
        """
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigurationError(
                f"max_grad_norm={self.max_grad_norm} would stop every update: give a positive one, or None"
            )
        if not self.bucket_mb > 0:
            raise ConfigurationError(f"bucket_mb={self.bucket_mb} holds nothing: it must be positive, as in 25")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigurationError(f"timeout_s={self.timeout_s} has passed already: it must be positive, or None")
