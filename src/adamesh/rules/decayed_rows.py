"""Adam whose moments fade while a row is not touched, and whose bias correction is the row's own.

For a row with n updates, this one included, that was last updated d updates of the table ago:

    m <- b1^(d-1) m                 v <- b2^(d-1) v                 the steps it missed, all gradients zero
    p <- p (1 - lr wd)^d            (decoupled; coupled: g <- g + wd p, once)
    m <- b1 m + (1-b1) g            v <- b2 v + (1-b2) g^2          Adam (Kingma & Ba 2015, algorithm 1)
    p <- p - lr * (m / (1-b1^n)) / (sqrt(v / (1-b2^n)) + eps)

With d = 1 throughout this is Adam. What dense Adam would have moved the row by while it was not touched, momentum
running out, is left out; missed decay is caught up at today's lr.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.errors import ConfigurationError
from adamesh.rules.base import Hyper
from adamesh.rules.rows import RowRule, Rows

__all__ = ["DecayedRows"]


@dataclass(frozen=True)
class DecayedRows(RowRule):
    """Adam on touched rows with the decays of the missed steps; ``decoupled`` weight decay makes it AdamW."""

    decoupled: bool

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return ("exp_avg", "exp_avg_sq")

    def check(self, hyper: Hyper) -> None:
        if hyper["amsgrad"]:
            raise ConfigurationError(
                "amsgrad=True in a group with sparse='decayed': a maximum does not fade. "
                "Give the group amsgrad=False, or sparse='exact'"
            )

    def update(self, rows: Rows, hyper: Hyper) -> None:
        beta1, beta2 = map(float, hyper["betas"])
        lr, decay = float(hyper["lr"]), float(hyper["weight_decay"])
        p, m, v = rows.params, rows.state["exp_avg"], rows.state["exp_avg_sq"]
        grads = -rows.grads if hyper["maximize"] else rows.grads
        if decay and self.decoupled:
            p.mul_(_power(1 - lr * decay, rows.gaps, p))
        elif decay:
            grads = grads.add(p, alpha=decay)
        m.mul_(_power(beta1, rows.gaps - 1, p)).mul_(beta1).add_(grads, alpha=1 - beta1)
        v.mul_(_power(beta2, rows.gaps - 1, p)).mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
        m_hat = m / (1 - _power(beta1, rows.counts, p))
        v_hat = v / (1 - _power(beta2, rows.counts, p))
        p.sub_(m_hat.div_(v_hat.sqrt_().add_(float(hyper["eps"]))), alpha=lr)


def _power(base: float, exponents: Tensor, like: Tensor) -> Tensor:
    """A column of ``base ** exponents``."""
    # In float64: of 1 - 0.999^n, float32 would leave four digits.
    return torch.pow(torch.tensor(base, dtype=torch.float64, device="cpu"), exponents.cpu().double()).to(like)[:, None]
