"""Workers that push, as threads, in an order that the test chooses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import adamesh
from adamesh.comm.base import Mesh
from adamesh.comm.threads import Fault, ThreadWorld
from adamesh.engine.meter import PushStats
from tests.device import DEVICE

NUM_ELEMENTS = 600
"""Several chunks, none a multiple of anything."""


class Pusher:
    """A worker whose parameters are one flat run and one more, and whose gradient a test chooses."""

    def __init__(
        self,
        mesh: Mesh,
        sync: adamesh.Async,
        up: Any = None,
        build: Callable[..., adamesh.MeshOptimizer] = adamesh.SGD,
        **options: Any,
    ) -> None:
        self.mesh = mesh
        self.param = nn.Parameter(torch.zeros(NUM_ELEMENTS, device=DEVICE))
        self.other = nn.Parameter(torch.zeros(70, device=DEVICE))
        plan = adamesh.Plan(mesh=mesh, sync=sync, bucket_mb=1e-3, wire=adamesh.Wire(up=up))
        named = [("param", self.param), ("other", self.other)]
        self.optimizer = build(named, **{"lr": 1.0, **options}, plan=plan)
        self.optimizer.serve()
        self.wait()

    def backward(self, gradient: float) -> None:
        """Every element gets this gradient, computed with the parameters as they are."""
        self.optimizer.zero_grad()
        ((self.param.sum() + self.other.sum()) * gradient).backward()

    def step(self, gradient: float | None = None) -> None:
        if gradient is not None:
            self.backward(gradient)
        self.optimizer.step()

    def wait(self) -> None:
        """For everybody; services go on."""
        self.mesh.world.exchange(b"", "turn")

    def turns(self, order: Sequence[int], gradient: float = 1.0) -> None:
        """The ranks step one after the other; gradients are computed at each one's turn."""
        for rank in order:
            if rank == self.mesh.world.rank:
                self.step(gradient)
            self.wait()

    @property
    def values(self) -> Tensor:
        return torch.cat([self.param.detach(), self.other.detach()])

    @property
    def pushes(self) -> PushStats:
        pushes = self.optimizer.stats().pushes
        assert pushes is not None
        return pushes


def among(
    num_ranks: int,
    law: Callable[..., Any],
    *args: Any,
    faults: Sequence[Fault] = (),
    timeout_s: float = 10.0,
    **how: Any,
) -> list[Any]:
    """What each rank returns from ``law(mesh, *args)``."""
    return ThreadWorld(1, num_ranks, faults, timeout_s).run(law, *args, **how)
