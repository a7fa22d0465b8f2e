"""Adam (Kingma & Ba 2015, algorithm 1), with decoupled decay AdamW (Loshchilov & Hutter 2019, algorithm 2).

    m <- b1 m + (1-b1) g            v <- b2 v + (1-b2) g^2
    p <- p (1 - lr wd)              (decoupled; coupled: g <- g + wd p before the moments)
    p <- p - lr * (m / (1-b1^t)) / (sqrt(v / (1-b2^t)) + eps)

With ``amsgrad`` (Reddi, Kale & Kumar 2018, algorithm 2) v is replaced in the last line by its running maximum.
The arithmetic is torch's own fused kernel, which is why world size 1 is torch's Adam to the bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.optim.adam import adam

from adamesh.rules.base import FUSED_DEVICES, Hyper, Moment, Operands, Rule
from adamesh.rules.checks import check_betas, check_lr_shape, check_not_negative

__all__ = ["Adam"]


@dataclass(frozen=True)
class Adam(Rule):
    """Adam on flat pieces; ``decoupled`` decay makes it AdamW."""

    decoupled: bool

    hyper_names = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if hyper["amsgrad"] else ("exp_avg", "exp_avg_sq")

    def moments(self, hyper: Hyper) -> Mapping[str, Moment]:
        first, second = (Moment(order, float(beta)) for order, beta in enumerate(hyper["betas"], start=1))
        return {name: first if name == "exp_avg" else second for name in self.state_names(hyper)}

    def check(self, hyper: Hyper) -> None:
        check_lr_shape(hyper)
        check_not_negative(hyper, "lr", "eps", "weight_decay")
        check_betas(hyper)

    def update(self, operands: Operands, hyper: Hyper) -> None:
        beta1, beta2 = hyper["betas"]
        adam(
            operands.params,
            operands.grads,
            operands.state["exp_avg"],
            operands.state["exp_avg_sq"],
            operands.state.get("max_exp_avg_sq", []),
            operands.steps,
            fused=operands.params[0].device.type in FUSED_DEVICES,
            decoupled_weight_decay=self.decoupled,
            amsgrad=hyper["amsgrad"],
            beta1=float(beta1),
            beta2=float(beta2),
            # One read of a tensor learning rate; on CUDA it waits for the device, as a Python scheduler would.
            lr=float(hyper["lr"]),
            weight_decay=float(hyper["weight_decay"]),
            eps=float(hyper["eps"]),
            maximize=hyper["maximize"],
        )
