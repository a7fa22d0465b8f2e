"""Adadelta (Zeiler 2012, algorithm 1): steps as long as the last ones were, in units of the gradient's size.

    v <- rho v + (1-rho) g^2
    d <- sqrt(u + eps) / sqrt(v + eps) * g
    u <- rho u + (1-rho) d^2                      p <- p - lr d

The paper has no learning rate: lr = 1, torch's default, is the paper's. Weight decay is an L2 term, torch's addition.
The arithmetic is torch's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch.optim.adadelta import adadelta

from adamesh.errors import ConfigurationError
from adamesh.rules.base import Hyper, Moment, Operands, Rule
from adamesh.rules.checks import check_lr_shape, check_not_negative

__all__ = ["Adadelta"]


@dataclass(frozen=True)
class Adadelta(Rule):
    """Adadelta on flat pieces."""

    hyper_names = ("lr", "rho", "eps", "weight_decay", "maximize")

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return ("square_avg", "acc_delta")

    def moments(self, hyper: Hyper) -> Mapping[str, Moment]:
        return {name: Moment(2) for name in self.state_names(hyper)}

    def check(self, hyper: Hyper) -> None:
        check_lr_shape(hyper)
        check_not_negative(hyper, "lr", "eps", "weight_decay")
        if not 0.0 <= float(hyper["rho"]) <= 1.0:
            raise ConfigurationError(f"rho={hyper['rho']} is out of range: it must be in [0, 1], as in rho=0.9")

    def update(self, operands: Operands, hyper: Hyper) -> None:
        adadelta(
            operands.params,
            operands.grads,
            operands.state["square_avg"],
            operands.state["acc_delta"],
            operands.steps,
            lr=float(hyper["lr"]),
            rho=float(hyper["rho"]),
            eps=float(hyper["eps"]),
            weight_decay=float(hyper["weight_decay"]),
            maximize=bool(hyper["maximize"]),
        )
