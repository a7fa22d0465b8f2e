"""AdamW and Adam on a mesh."""

from torch import Tensor

from adamesh.optimizer import MeshOptimizer, ParamsT
from adamesh.plan import Plan
from adamesh.rules.adam import Adam as AdamRule

__all__ = ["Adam", "AdamW"]


class AdamW(MeshOptimizer):
    """AdamW (Loshchilov & Hutter 2019) on a mesh; ``torch.optim.AdamW``'s arguments, and a plan.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = AdamW(model.parameters(), lr=3e-4)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"amsgrad": amsgrad, "maximize": maximize}
        super().__init__(params, defaults, AdamRule(decoupled=True), plan or Plan())


class Adam(MeshOptimizer):
    """Adam (Kingma & Ba 2015) on a mesh; ``torch.optim.Adam``'s arguments, and a plan.

    Weight decay is coupled: it is added to the gradient, once, at the owner of a slice.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"amsgrad": amsgrad, "maximize": maximize}
        super().__init__(params, defaults, AdamRule(decoupled=False), plan or Plan())
