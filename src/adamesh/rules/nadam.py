"""NAdam (Dozat 2016, algorithm 2): Adam with Nesterov's momentum, and Dozat's warm-up of it.

    mu_t <- b1 (1 - 0.96^(t psi) / 2)             (psi: momentum_decay)
    m <- b1 m + (1-b1) g            v <- b2 v + (1-b2) g^2
    m_hat <- mu_{t+1} m / (1 - mu_1 ... mu_{t+1}) + (1-mu_t) g / (1 - mu_1 ... mu_t)
    p <- p - lr * m_hat / (sqrt(v / (1-b2^t)) + eps)

As torch has it, which is not the paper to the letter: the moment decays by b1 where the paper's decays by mu_t.
Weight decay is an L2 term, or decoupled (Loshchilov & Hutter 2019) if the group says so. The product of the mu's is
the rule's scalar. The arithmetic is torch's own; on a GPU it is torch's ``capturable`` one, which waits for nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from torch.optim.nadam import nadam

from adamesh.rules.base import Hyper, Moment, Operands, Rule
from adamesh.rules.checks import check_betas, check_lr_shape, check_not_negative

__all__ = ["NAdam"]


@dataclass(frozen=True)
class NAdam(Rule):
    """NAdam on flat pieces."""

    hyper_names = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "momentum_decay",
        "decoupled_weight_decay",
        "maximize",
    )
    scalars: ClassVar[Mapping[str, float]] = MappingProxyType({"mu_product": 1.0})

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return ("exp_avg", "exp_avg_sq")

    def moments(self, hyper: Hyper) -> Mapping[str, Moment]:
        beta1, beta2 = hyper["betas"]
        return {"exp_avg": Moment(1, float(beta1)), "exp_avg_sq": Moment(2, float(beta2))}

    def check(self, hyper: Hyper) -> None:
        check_lr_shape(hyper)
        check_not_negative(hyper, "lr", "eps", "weight_decay", "momentum_decay")
        check_betas(hyper)

    def update(self, operands: Operands, hyper: Hyper) -> None:
        beta1, beta2 = hyper["betas"]
        nadam(
            operands.params,
            operands.grads,
            operands.state["exp_avg"],
            operands.state["exp_avg_sq"],
            operands.scalars["mu_product"],
            operands.steps,
            decoupled_weight_decay=bool(hyper["decoupled_weight_decay"]),
            capturable=operands.params[0].device.type != "cpu",
            beta1=float(beta1),
            beta2=float(beta2),
            lr=float(hyper["lr"]),
            weight_decay=float(hyper["weight_decay"]),
            momentum_decay=float(hyper["momentum_decay"]),
            eps=float(hyper["eps"]),
            maximize=bool(hyper["maximize"]),
        )
