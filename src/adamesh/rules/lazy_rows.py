"""Lazy Adam: rows without a gradient do not exist. The rule of ``torch.optim.SparseAdam`` (PyTorch 2.13), to the bit.

    m <- m + (1-b1) (g - m)         v <- v + (1-b2) (g^2 - v)         of the touched rows only
    p <- p - lr sqrt(1-b2^t) / (1-b1^t) * m / (sqrt(v) + eps)

As in torch, t counts the updates of the table, not of the row, so that a row first seen late takes a step of up to
(1-b1) / sqrt(1-b2) = 3.2 lr; and eps is added before the bias correction of v, not after it as in Adam. There is no
weight decay.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adamesh.errors import ConfigurationError
from adamesh.rules.base import Hyper
from adamesh.rules.rows import RowRule, Rows

__all__ = ["LazyRows"]


@dataclass(frozen=True)
class LazyRows(RowRule):
    """torch's SparseAdam."""

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return ("exp_avg", "exp_avg_sq")

    def check(self, hyper: Hyper) -> None:
        if float(hyper["weight_decay"]) != 0.0:
            raise ConfigurationError(
                f"weight_decay={hyper['weight_decay']} in a group with sparse='lazy': its rule, that of "
                "torch.optim.SparseAdam, has none. Give the group weight_decay=0.0 (its default), or sparse='decayed' "
                "or 'exact'"
            )
        if hyper["amsgrad"]:
            raise ConfigurationError(
                "amsgrad=True in a group with sparse='lazy': its rule, torch.optim.SparseAdam's, has none. "
                "Give the group amsgrad=False, or sparse='exact'"
            )

    def update(self, rows: Rows, hyper: Hyper) -> None:
        beta1, beta2 = map(float, hyper["betas"])
        grads = -rows.grads if hyper["maximize"] else rows.grads
        m, v = rows.state["exp_avg"], rows.state["exp_avg_sq"]
        m.add_(grads.sub(m).mul_(1 - beta1))
        v.add_(grads.square().sub_(v).mul_(1 - beta2))
        step_size = float(hyper["lr"]) * math.sqrt(1 - beta2**rows.step) / (1 - beta1**rows.step)
        rows.params.add_(m.div(v.sqrt().add_(float(hyper["eps"]))).mul_(-step_size))
