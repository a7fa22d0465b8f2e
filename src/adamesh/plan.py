"""The plan: one frozen record of every choice about how workers share the work."""

from dataclasses import dataclass, field, replace
from typing import NoReturn

from torch.distributed.device_mesh import DeviceMesh

from adamesh.codecs.coding import Coding, Parts, parts
from adamesh.codecs.lowrank import LowRank
from adamesh.comm.base import Mesh
from adamesh.comm.company import Company
from adamesh.errors import ConfigurationError, IncompatiblePlan
from adamesh.guard import Guard
from adamesh.rules.base import Hyper
from adamesh.sync.base import Schedule, is_every_step
from adamesh.sync.diloco import DiLoCo
from adamesh.sync.every_step import EveryStep
from adamesh.wire import Wire

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """How an optimizer spreads over its workers. The default is exact and agrees every step.

    Examples:
        >>> Plan(max_grad_norm=1.0).bucket_mb
        25
    """

    mesh: DeviceMesh | Mesh | Company | None = None
    """Axes ``("replicate", "shard")``. None: one island of the default process group, or world size 1. A company:
    workers that may be lost, come and go (docs/elastic.md); one island, or where islands step alone an island each."""

    wire: Wire = field(default_factory=Wire)
    """How numbers are written on their way: codecs UP, DOWN and across islands. The default is exact."""

    sync: Schedule = field(default_factory=EveryStep)
    """When islands agree."""

    max_grad_norm: float | None = None
    """Clip the global norm of the mean gradient to this, exactly as ``clip_grad_norm_`` would."""

    redundancy: int = 1
    """Copies of each slice of optimizer state: 2 outlive the loss of any one worker, 3 of any two. Each further copy
    costs its share of state, of the update, and of the gradient once more UP (docs/elastic.md)."""
    guard: Guard | None = None
    """Skip steps that are too bad to be made, and repair replicas that differ. None: off."""

    balance: bool = False
    """Give faster workers more of the global batch: those that `adamesh.ElasticSampler` or ``adamesh train`` cut, by
    what the optimizer measures."""

    overlap: bool = True
    """Send gradients while backward runs. False: send in ``step()``, so that ``p.grad`` may be edited before."""

    bucket_mb: float = 25
    """MiB of parameters that travel as one."""

    compile: bool | None = None
    """Compile codecs on CPUs, which takes seconds when the optimizer is built and changes no bit. None: from 4 Mi
    elements on that train. Where there is no C++ compiler they run as they are, and a line of the log says so."""

    timeout_s: float | None = None
    """How long to wait for another worker; None: what ``torch.distributed`` uses by default."""

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise what is wrong with this plan.

        Raises:
            ConfigurationError: a value is out of range.
            IncompatiblePlan: two settings are unsound together.
        """
        if not isinstance(self.wire, Wire):
            raise ConfigurationError(f"wire={self.wire!r}: must be an adamesh.Wire, as in Wire(up=Int8(), down=Int8())")
        self.wire.check()
        if not isinstance(self.sync, Schedule):
            raise ConfigurationError(
                f"sync={self.sync!r}: must be a schedule, as in EveryStep() or EveryH(16); names such as 'every-16' "
                "belong in configuration files"
            )
        if self.sync.at(0).pushes is not None:
            self._check_pushes()
        self._check_across()
        self._check_delay()
        self._check_balance()
        self.full_wire.check()
        if isinstance(self.mesh, Company):
            self._check_company()
        if self.mesh is not None:
            self.full_wire.check_mesh(*self._mesh_shape)
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ConfigurationError(
                f"max_grad_norm={self.max_grad_norm} would stop every update: give a positive one, or None"
            )
        if self.max_grad_norm is not None and self.wire.sends_momentum:
            raise IncompatiblePlan(
                f"max_grad_norm={self.max_grad_norm} with Wire(across=Frozen(Momentum(...))): where momentum travels "
                "nobody knows the norm of the mean gradient, and what is clipped would be the codec's noise. Leave "
                "max_grad_norm out, or send gradients: Wire(across=Frozen(Feedback(Sign())))"
            )
        self._check_redundancy()
        if self.guard is not None and not isinstance(self.guard, Guard):
            raise ConfigurationError(f"guard={self.guard!r}: must be an adamesh.Guard, as in Guard(), or None")
        if not self.bucket_mb > 0:
            raise ConfigurationError(f"bucket_mb={self.bucket_mb} holds nothing: it must be positive, as in 25")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigurationError(f"timeout_s={self.timeout_s} has passed already: it must be positive, or None")

    @property
    def num_islands(self) -> int:
        """How many islands its mesh has; one where no mesh was given."""
        return self._mesh_shape[0]

    @property
    def _mesh_shape(self) -> tuple[int, int]:
        """(number of islands, workers in an island), as far as it is known; (1, 1) where no mesh was given."""
        if isinstance(self.mesh, Company):
            size = self.mesh.formation.world.size
            return (1, size) if self.sync.at(0).gradients else (size, 1)
        return (1, 1) if self.mesh is None else _shape(self.mesh)

    def check_group(self, hyper: Hyper) -> None:
        """Raise if the hyper-parameters of a parameter group are unsound with this plan.

        Raises:
            IncompatiblePlan: they are.
        """
        # Only gradients enter second moments; what crosses may be pseudo-gradients.
        gradients_cross = self.sync.at(0).gradients
        if "frozen_after" in hyper and not is_every_step(self.sync):
            raise IncompatiblePlan(
                f"sync={self.sync} with OneBitAdam: islands that step alone would freeze second moments after "
                "different steps, and gradients that come late would arrive after a freeze that they left before. "
                "Take sync=EveryStep(), where what travels is one bit an element; or adamesh.AdamW"
            )
        (self.wire if gradients_cross else replace(self.wire, across=None)).check_group(hyper)

    @property
    def full_wire(self) -> Wire:
        """The wire, with the schedule's own codec in it."""
        outer = self.sync.at(0).outer
        return self.wire if outer is None or outer.codec is None else replace(self.wire, across=outer.codec)

    def _check_delay(self) -> None:
        """What is on its way for several steps cannot be followed by what was dropped of it."""
        if self.sync.at(0).delay and self.wire.keeps_residuals:
            raise IncompatiblePlan(
                f"sync={self.sync} with {self.wire}: what a codec drops of a gradient is sent with the next one, and "
                "the next ones leave before it is known. Take codecs that need no feedback, Wire(up=Int8(), "
                "across=Int8()), or sync=EveryStep()"
            )

    def _check_company(self) -> None:
        plan = self.sync.at(0)
        if plan.pushes is not None or plan.delay:
            raise IncompatiblePlan(
                f"sync={self.sync} among workers that come and go: pushes and gradients that are still on their way "
                "when a worker is lost would be lost with it. Take sync=EveryStep(), EveryH(...) or DiLoCo(...)"
            )

    def _check_redundancy(self) -> None:
        if self.redundancy not in range(1, 1 << 16):
            raise ConfigurationError(
                f"redundancy={self.redundancy!r}: how many workers keep each slice of state, 1 or more, as in 2"
            )
        if self.redundancy == 1:
            return
        plan = self.sync.at(0)
        if plan.pushes is not None or plan.delay:
            raise IncompatiblePlan(
                f"redundancy={self.redundancy} with sync={self.sync}: copies are kept alike by making the owner's "
                "update with the gradient that all have voted on, and here updates are made before or after that. "
                "Take sync=EveryStep(), or leave redundancy out and rely on checkpoints"
            )

    def _check_balance(self) -> None:
        """Shares of different sizes are exact where what travels is a sum of gradients."""
        plan = self.sync.at(0)
        if self.balance and plan.pushes is not None:
            raise IncompatiblePlan(
                f"balance=True with sync={self.sync}: there is no batch to share, each worker goes at its own speed "
                "already. Leave balance out"
            )
        if self.balance and not plan.gradients:
            raise IncompatiblePlan(
                f"balance=True with sync={self.sync}: islands that step alone are averaged as equals, and one with "
                "fewer samples a step would make noisier steps of the same length. Leave balance out, or take "
                "sync=EveryStep()"
            )

    def _check_across(self) -> None:
        """What travels between islands depends on the schedule: gradients, pseudo-gradients, parameters."""
        across = self.wire.across
        if across is None:
            return
        plan = self.sync.at(0)
        if plan.outer is not None and plan.outer.codec is not None:
            raise IncompatiblePlan(
                f"sync={self.sync} with Wire(across={across}): both say how pseudo-gradients are coded. Give one of "
                "them"
            )
        if isinstance(self.sync, DiLoCo):
            replace(self.sync, codec=across)  # says what is unsound
        elif not plan.gradients:
            raise IncompatiblePlan(
                f"sync={self.sync} with Wire(across={across}): what islands send is whole parameters and moments, of "
                "which a codec would drop more than a period changes. Send differences, which can be coded: "
                f"DiLoCo(h=..., outer=adamesh.sync.outer.SGD(lr=1.0), codec={across}); or leave across out"
            )
        elif parts(across).decay < 1.0:
            raise IncompatiblePlan(
                f"sync={self.sync} with Wire(across={across}): what fades of a gradient never reaches Adam. Leave "
                "decay out, or send pseudo-gradients: DiLoCo(h=...)"
            )

    def _check_pushes(self) -> None:
        """What needs all workers at once is unsound where they push at their own speed."""
        wire, pushes = self.wire, self.sync.at(0).pushes
        assert pushes is not None
        if self.max_grad_norm is not None:
            self._refuse_with_pushes(
                f"max_grad_norm={self.max_grad_norm}: the global norm is that of a mean over workers, which nobody "
                "forms. Clip each worker's own gradient, torch.nn.utils.clip_grad_norm_(params, c) before step(), and "
                "leave max_grad_norm out"
            )
        if self.guard is not None:
            self._refuse_with_pushes(
                f"guard={self.guard}: workers vote on no step, and hold different versions of the parameters. Leave "
                "guard out; a gradient that is not finite is refused by the owners anyway"
            )
        if self.num_islands > 1:
            self._refuse_with_pushes(
                f"a mesh of {self.num_islands} islands: workers push to owners sharded over all of them. Take one "
                "island"
            )
        if wire.down is not None:
            self._refuse_with_pushes(
                f"Wire(down={wire.down}): what is coded is the difference to what everybody holds, and here workers "
                "hold different versions. Leave down out; gradients may be coded, Wire(up=Int8())"
            )
        if wire.across is not None:
            self._refuse_with_pushes(
                f"Wire(across={wire.across}): there is one island. Code gradients, Wire(up=Int8())"
            )
        if pushes.compensation > 0 and pushes.outstanding > 0:
            self._refuse_with_pushes(
                f"outstanding={pushes.outstanding} and compensation={pushes.compensation}: the owner would compare "
                "with a slice that the worker had not read yet. Take outstanding=0, or compensation=0"
            )
        if wire.up is not None:
            self._check_pushed(wire.up, parts(wire.up), pushes.outstanding)

    def _check_pushed(self, up: Coding, coded: Parts, outstanding: int) -> None:
        if isinstance(coded.codec, LowRank):
            self._refuse_with_pushes(
                f"Wire(up={up}): low rank sums its factors over all workers. Take a codec, Wire(up=Feedback(Int4()))"
            )
        if coded.has_phases or coded.momentum:
            self._refuse_with_pushes(
                f"Wire(up={up}): workers are at different steps, so there is no step before which nothing is coded. "
                "Leave the warm-up out"
            )
        if coded.feedback and outstanding:
            self._refuse_with_pushes(
                f"outstanding={outstanding} and Wire(up={up}): what is held back depends on answers that have not "
                "come. Take outstanding=0, or a codec without feedback, Wire(up=Int8())"
            )

    def _refuse_with_pushes(self, reason: str) -> NoReturn:
        raise IncompatiblePlan(f"sync={self.sync} with {reason}")


def _shape(mesh: DeviceMesh | Mesh) -> tuple[int, int]:
    """(number of islands, workers in an island)."""
    if isinstance(mesh, Mesh):
        return mesh.shape
    names = mesh.mesh_dim_names or ()
    islands, workers = (mesh.size(names.index(axis)) if axis in names else 1 for axis in ("replicate", "shard"))
    return islands, workers
