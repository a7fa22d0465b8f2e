"""Optimizers to compare Adam with, under the same mesh: torch's arguments and defaults, and a plan."""

from torch import Tensor

from adamesh.optimizer import MeshOptimizer, ParamsT
from adamesh.plan import Plan
from adamesh.rules import adadelta, nadam, sgd

__all__ = ["SGD", "Adadelta", "NAdam"]


class NAdam(MeshOptimizer):
    """NAdam (Dozat 2016) on a mesh; ``torch.optim.NAdam``'s arguments, and a plan."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        defaults |= {"maximize": maximize}
        super().__init__(params, defaults, nadam.NAdam(), plan or Plan())


class SGD(MeshOptimizer):
    """SGD, with momentum and Nesterov's if asked, on a mesh; ``torch.optim.SGD``'s arguments, and a plan."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        defaults |= {"nesterov": nesterov, "maximize": maximize}
        super().__init__(params, defaults, sgd.SGD(), plan or Plan())


class Adadelta(MeshOptimizer):
    """Adadelta (Zeiler 2012) on a mesh; ``torch.optim.Adadelta``'s arguments, and a plan."""

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults = {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, defaults, adadelta.Adadelta(), plan or Plan())
