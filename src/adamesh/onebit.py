"""1-bit Adam, sharded or as replicas: exact until the second moments have settled, one bit an element from then on."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from adamesh.codecs.feedback import Feedback
from adamesh.codecs.frozen import Frozen
from adamesh.codecs.momentum import Momentum
from adamesh.codecs.sign import Sign
from adamesh.optimizer import MeshOptimizer, ParamsT
from adamesh.plan import Plan
from adamesh.rules.onebit_adam import OneBitAdam as OneBitAdamRule
from adamesh.wire import Wire

__all__ = ["OneBitAdam", "one_bit_wire"]


class OneBitAdam(MeshOptimizer):
    """1-bit Adam (Tang et al. 2021) on a mesh: AdamW, then AdamW with a frozen second moment on a coded wire.

    While it is AdamW, to the bit, nothing is coded. It freezes on all workers after the same step: when the learning
    rate has stopped rising and the second moments' sum has changed by less than 4 % in ``1 / (1 - betas[1])`` updates.
    ``stats().frozen_after`` and ``param_groups[0]["frozen_after"]`` say when that was.

    Two forms, by the plan's wire. Inside an island gradients go UP with feedback, an owner has the momentum of its
    slice, and coded differences come DOWN. Between islands momentum travels, there and back, each way with feedback of
    its own; islands of one worker are the paper's replicas, each with all of the moments.

    Args:
        params: as for `MeshOptimizer`; groups with ``sparse`` are refused.
        lr: the learning rate.
        betas: decays of the first and of the second moment, which is at least 0.9: the closer to 1, the better an
            average is frozen, and the later. It looks back on ``1 / (1 - betas[1])`` updates.
        eps: keeps what is divided by away from zero.
        weight_decay: decoupled, as AdamW's, and in nothing that is coded.
        freeze_at: freeze after so many updates, whatever the moments do; None: when they have settled. The first
            group's counts.
        maximize: climb.
        plan: where its wire is exact, the wire becomes ``Wire(up=Frozen(Feedback(Sign())), down=Frozen(Sign()))`` on
            one island and ``Wire(across=Frozen(Momentum(Feedback(Sign()))))`` on several. A wire that codes something
            is taken as it is.

    Raises:
        ConfigurationError: a value is out of range.
        IncompatiblePlan: second moments would be learned of coded gradients.

    Examples:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = OneBitAdam(model.parameters(), freeze_at=1)
        >>> for _ in range(2):
        ...     model(torch.ones(1, 4)).sum().backward()
        ...     optimizer.step()
        >>> optimizer.stats().frozen_after
        1
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        freeze_at: int | None = None,
        maximize: bool = False,
        plan: Plan | None = None,
    ) -> None:
        defaults: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"maximize": maximize, "freeze_at": freeze_at, "frozen_after": None, "marks": ()}
        super().__init__(params, defaults, OneBitAdamRule(), _with_one_bit(plan or Plan()))


def _with_one_bit(plan: Plan) -> Plan:
    """The plan, with one bit an element unless it codes something already."""
    return replace(plan, wire=one_bit_wire(plan.num_islands)) if plan.wire.is_exact else plan


def one_bit_wire(num_islands: int) -> Wire:
    """One bit an element between islands if there are several, else inside the one."""
    one_bit = Feedback(Sign())
    if num_islands > 1:
        return Wire(across=Frozen(Momentum(one_bit)))
    return Wire(up=Frozen(one_bit), down=Frozen(Sign()))
