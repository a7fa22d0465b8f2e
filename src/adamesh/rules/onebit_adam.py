"""1-bit Adam (Tang et al. 2021, algorithm 1): AdamW whose second moment is frozen once it has settled.

    until T updates     m, v, p <- AdamW(m, v, p, g)
    from then on        m <- b1 m + (1-b1) g                v = v_T
                        p <- p (1 - lr wd) - lr * (m / (1-b1^t)) / (sqrt(v_T / (1-b2^T)) + eps)

T is when the learning rate does not rise any more and v stands still (the paper's criterion), over D = ceil(1/(1-b2))
updates,

    0.96 <= |v_t|_1 / |v_{t-D}|_1 <= 1/0.96,

looked at 16 times every D updates; or a number that was given. v is frozen together with the correction of its bias,
so that steps are as long after T as before. From T on gradients may come coded, every element wrong by the mean of its
block; where v is far below its block's that error would be a long step, so v is at least a share of the block's mean,
which bounds it. Where all of a block is zero nothing is known, and nothing moves. (The paper has no floor.)

A parameter that was updated less often than T and than D times goes on learning v until it was, from what comes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from adamesh.errors import ConfigurationError
from adamesh.layout import GRAIN
from adamesh.rules.adam import Adam
from adamesh.rules.base import Hyper, Moment, Operands, Rule
from adamesh.rules.checks import check_betas, check_lr_shape, check_not_negative

__all__ = ["OneBitAdam"]

_STEADY = 0.96
_LOOKS = 16
"""In every D updates."""
_LEAST_BETA2 = 0.9
_FLOOR = 0.01
"""Share of a block's mean: the error of one coded element then moves it by 10 lr at the most."""
_EXACT = Adam(decoupled=True)


class _Mark(NamedTuple):
    """What was measured at some point."""

    updates: int
    size: float
    """The sum of v over all parameters."""
    lr: float


@dataclass(frozen=True)
class OneBitAdam(Rule):
    """AdamW with a second moment that freezes."""

    hyper_names = ("lr", "betas", "eps", "weight_decay", "maximize", "freeze_at", "frozen_after", "marks")
    scalars: ClassVar[Mapping[str, float]] = MappingProxyType({"frozen_steps": 0.0})
    """T of each parameter; 0 while its v lives."""

    def state_names(self, hyper: Hyper) -> Sequence[str]:
        return ("exp_avg", "exp_avg_sq")

    def moments(self, hyper: Hyper) -> Mapping[str, Moment]:
        return _EXACT.moments({**hyper, "amsgrad": False})

    def check(self, hyper: Hyper) -> None:
        check_lr_shape(hyper)
        check_not_negative(hyper, "lr", "eps", "weight_decay")
        check_betas(hyper)
        if not float(hyper["betas"][1]) >= _LEAST_BETA2:
            raise ConfigurationError(
                f"betas[1]={hyper['betas'][1]} is out of range: a second moment of the last few gradients is not fit "
                f"to be kept for good. Take at least {_LEAST_BETA2}, as in betas=(0.9, 0.99)"
            )
        at = hyper["freeze_at"]
        if at is not None and (isinstance(at, bool) or not isinstance(at, int) or at < 1):
            raise ConfigurationError(
                f"freeze_at={at!r} is out of range: it must be a number of updates, at least 1, or None to freeze when "
                "the second moments have settled"
            )

    def measures(self, hypers: Sequence[Hyper], updates: int) -> str | None:
        if hypers[0]["frozen_after"] is not None or hypers[0]["freeze_at"] is not None or not updates:
            return None
        lag = _window(hypers)
        stride = max(1, lag // _LOOKS)
        ends_a_window = updates > lag and (updates - lag) % stride == 0
        return "exp_avg_sq" if updates % stride == 0 or ends_a_window else None

    def advance(self, hypers: Sequence[Hyper], updates: int, measured: float) -> Mapping[str, Any]:
        first = hypers[0]
        if first["frozen_after"] is not None:
            return {"frozen_after": first["frozen_after"]}  # groups that were added later learn of it
        if first["freeze_at"] is not None:
            return {"frozen_after": updates + 1} if updates + 1 >= first["freeze_at"] else {}
        if self.measures(hypers, updates) is None:
            return {}
        lag = _window(hypers)
        now = _Mark(updates, measured, max(float(hyper["lr"]) for hyper in hypers))
        marks = [mark for mark in _marks(first["marks"]) if updates - lag <= mark.updates < updates]
        rises = bool(marks) and now.lr > marks[-1].lr
        if not rises and any(mark.updates == updates - lag and _stands_still(mark, now) for mark in marks):
            return {"frozen_after": updates + 1, "marks": ()}
        return {"marks": tuple(number for mark in (*marks, now) for number in mark)}

    def update(self, operands: Operands, hyper: Hyper) -> None:
        if hyper["frozen_after"] is None:
            _EXACT.update(operands, {**hyper, "amsgrad": False})
            return
        # One read for all: on a GPU it waits.
        counts = torch.stack(operands.steps).tolist()
        frozen = torch.stack(operands.scalars["frozen_steps"]).tolist()
        enough = min(hyper["frozen_after"], _window([hyper]))
        young = [i for i, (count, at) in enumerate(zip(counts, frozen, strict=True)) if not at and count < enough]
        still = [i for i in range(len(counts)) if i not in set(young)]
        if young:
            _EXACT.update(_some(operands, young), {**hyper, "amsgrad": False})
        for i in still:
            if not frozen[i]:
                frozen[i] = counts[i]
                operands.scalars["frozen_steps"][i].fill_(counts[i])
                _raise_to_floor(operands.state["exp_avg_sq"][i])
        if still:
            _step(_some(operands, still), [counts[i] for i in still], [frozen[i] for i in still], hyper)


def _window(hypers: Sequence[Hyper]) -> int:
    """D: how many updates a second moment looks back."""
    beta2 = max(float(hyper["betas"][1]) for hyper in hypers)
    return math.ceil(1.0 / (1.0 - beta2) - 1e-6)  # 1 / (1 - 0.9) is a little more than 10


def _stands_still(then: _Mark, now: _Mark) -> bool:
    return now.size > 0.0 and _STEADY * then.size <= now.size <= then.size / _STEADY


def _marks(numbers: Sequence[float]) -> Iterator[_Mark]:
    """A group holds them as a flat run of numbers, which goes into any file and back."""
    for i in range(0, len(numbers), 3):
        yield _Mark(int(numbers[i]), float(numbers[i + 1]), float(numbers[i + 2]))


def _some(operands: Operands, which: Sequence[int]) -> Operands:
    return Operands(
        params=[operands.params[i] for i in which],
        grads=[operands.grads[i] for i in which],
        state={name: [tensors[i] for i in which] for name, tensors in operands.state.items()},
        steps=[operands.steps[i] for i in which],
        scalars={name: [numbers[i] for i in which] for name, numbers in operands.scalars.items()},
    )


def _raise_to_floor(v: Tensor) -> None:
    """At least a share of the mean of its block; infinite where that is zero, so that nothing moves there.

    Pieces start on the layout's grain, so that blocks are the same however a parameter is cut.
    """
    whole = v.numel() - v.numel() % GRAIN
    for part in (v[:whole].view(-1, GRAIN), v[whole:].view(-1, v.numel() - whole) if whole < v.numel() else v[:0]):
        if part.numel():
            mean = part.mean(-1, keepdim=True)
            torch.maximum(part, _FLOOR * mean, out=part)
            part.masked_fill_(mean == 0, math.inf)


def _step(operands: Operands, counts: Sequence[float], frozen: Sequence[float], hyper: Hyper) -> None:
    beta1, beta2 = (float(beta) for beta in hyper["betas"])
    lr = float(hyper["lr"])
    grads, moments = operands.grads, operands.state["exp_avg"]
    if hyper["maximize"]:
        grads = list(torch._foreach_neg(grads))
    torch._foreach_mul_(operands.params, 1.0 - lr * float(hyper["weight_decay"]))
    torch._foreach_lerp_(moments, grads, 1.0 - beta1)
    scales = list(torch._foreach_sqrt(operands.state["exp_avg_sq"]))
    torch._foreach_div_(scales, [math.sqrt(1.0 - beta2**at) for at in frozen])
    torch._foreach_add_(scales, float(hyper["eps"]))
    torch._foreach_addcdiv_(operands.params, moments, scales, [-lr / (1.0 - beta1 ** (count + 1)) for count in counts])
    torch._foreach_add_(operands.steps, 1)
