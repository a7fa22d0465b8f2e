"""SGD with momentum (Polyak 1964), Nesterov's if asked (Sutskever, Martens, Dahl & Hinton 2013, equations 3 and 4).

    g <- g + wd p
    b <- g at the first step, else mom b + (1-damp) g
    p <- p - lr b                                 (Nesterov: p <- p - lr (g + mom b))

As torch has it: the learning rate multiplies the buffer, where Sutskever's is multiplied into it, and dampening does
not damp the first step. The arithmetic is torch's own fused kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from adamesh.errors import ConfigurationError
from adamesh.rules.base import FUSED_DEVICES, Hyper, Moment, Operands, Rule
from adamesh.rules.checks import check_lr_shape, check_not_negative

__all__ = ["SGD"]


@dataclass(frozen=True)
class SGD(Rule):
    """SGD on flat pieces; without momentum it keeps no state at all."""

    hyper_names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
    torch_counts_steps = False

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return ("momentum_buffer",) if hyper["momentum"] else ()

    def moments(self, hyper: Hyper) -> Mapping[str, Moment]:
        return {name: Moment(1) for name in self.state_names(hyper)}

    def check(self, hyper: Hyper) -> None:
        check_lr_shape(hyper)
        check_not_negative(hyper, "lr", "momentum", "weight_decay")
        if hyper["nesterov"] and (not hyper["momentum"] or hyper["dampening"]):
            raise ConfigurationError(
                f"nesterov=True with momentum={hyper['momentum']} and dampening={hyper['dampening']}: Nesterov's "
                "momentum needs a momentum above 0, as in 0.9, and no dampening"
            )

    def update(self, operands: Operands, hyper: Hyper) -> None:
        if not hyper["momentum"]:
            _step(operands.params, operands.grads, [None] * len(operands.params), hyper)
        else:
            self._with_momentum(operands, hyper)
        torch._foreach_add_(operands.steps, 1)

    def _with_momentum(self, operands: Operands, hyper: Hyper) -> None:
        """Those that take their first step have no buffer yet, which torch is told by None: it is not damped."""
        counts = torch.stack(operands.steps).tolist()  # one read for all: on a GPU it waits
        columns = (operands.params, operands.grads, operands.state["momentum_buffer"])
        pieces = list(zip(*columns, counts, strict=True))
        first = [piece for piece in pieces if not piece[3]]
        later = [piece for piece in pieces if piece[3]]
        if first:
            made: list[Tensor | None] = [None] * len(first)
            _step([p for p, _, _, _ in first], [g for _, g, _, _ in first], made, hyper)
            for (_, _, kept, _), buffer in zip(first, made, strict=True):
                assert buffer is not None
                kept.copy_(buffer)
        if later:
            _step([p for p, _, _, _ in later], [g for _, g, _, _ in later], [b for _, _, b, _ in later], hyper)


def _step(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor | None], hyper: Hyper) -> None:
    sgd(
        params,
        grads,
        buffers,
        fused=params[0].device.type in FUSED_DEVICES,
        weight_decay=float(hyper["weight_decay"]),
        momentum=float(hyper["momentum"]),
        lr=float(hyper["lr"]),
        dampening=float(hyper["dampening"]),
        nesterov=bool(hyper["nesterov"]),
        maximize=bool(hyper["maximize"]),
    )
