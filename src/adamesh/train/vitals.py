"""Signs of health that ``adamesh doctor`` reads: how far gradients reach, which units are dead, who is slow.

They cost no word among workers. Who is slow stands in each step's header anyway; the model's own are looked at in some
steps only, by the worker that writes, in two weights and in biases.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median_low

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

__all__ = ["Vitals", "paces"]

_EARLY, _EARLY_EVERY, _LATER_EVERY = 60, 15, 60
"""Steps. Short runs should be told of too, and what goes wrong does so early. On a busy CPU a look takes 0.8 ms and a
step of the smallest models 3.4 ms: every 60 steps, that is 0.4 % of the time (docs/log.md)."""
_WINDOW, _LEAST = 8, 4
"""Looks that a unit is dead in, one after the other: one that has nothing to do in a batch has something in another."""


class Vitals:
    """Looks at the gradients of a model between backward and ``step()``.

    Args:
        model: whose.
        log_every: steps between lines of metrics.jsonl.
    """

    def __init__(self, model: nn.Module, log_every: int) -> None:
        self._early_every, self._later_every = (_logged(every, log_every) for every in (_EARLY_EVERY, _LATER_EVERY))
        self._weights = list(_weights(model))
        self._biases = _unit_biases(model)
        self._sizes = np.array([bias.numel() for bias in self._biases], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._silences = np.zeros(int(self._sizes.sum()), dtype=np.int64)
        """Of each unit: looks in a row, the last ones, in which its gradient was zero."""
        self._looks = 0

    def look(self, step: int) -> dict[str, float]:
        """Numbers for the line of step ``step``, from 0; empty in steps that are not looked at.

        Gradients are this worker's own, of its part of the batch.
        """
        number = step + 1
        if number % (self._early_every if number <= _EARLY else self._later_every):
            return {}
        with torch.no_grad():
            return self._passage() | self._dead()

    def _passage(self) -> dict[str, float]:
        """The root mean square of the first and of the last weight's gradient."""
        grads = [grad for weight in self._weights if (grad := _dense_grad(weight)) is not None]
        if len(grads) < 2:
            return {}
        ends = [grads[0], grads[-1]]
        norms = torch.stack([torch.linalg.vector_norm(grad, dtype=torch.float32) for grad in ends]).tolist()  # one wait
        first, last = (norm / grad.numel() ** 0.5 for norm, grad in zip(norms, ends, strict=True))
        return {"grad_rms_first": first, "grad_rms_last": last}

    def _dead(self) -> dict[str, float]:
        """The share of units without any gradient in the last looks, of all and in the layer that has most."""
        grads = [grad for bias in self._biases if (grad := _dense_grad(bias)) is not None]
        if not grads or len(grads) < len(self._biases):
            return {}
        silent = (torch.cat(grads) == 0).cpu().numpy()
        self._silences = np.where(silent, self._silences + 1, 0)
        self._looks += 1
        if self._looks < _LEAST:
            return {}
        dead = self._silences >= min(self._looks, _WINDOW)
        worst = np.maximum.reduce(np.add.reduceat(dead, self._starts, dtype=np.float64) / self._sizes)
        return {"dead_units": float(dead.mean()), "dead_units_worst_layer": float(worst)}


def paces(work_s: Sequence[float], num_workers: int) -> dict[str, float]:
    """How long workers took up to ``step()``, waiting left out: the writer, the slowest, the median of the rest.

    Args:
        work_s: by rank, as the step's header has brought it.
        num_workers: of the run; where not all of them exchange headers, nothing is known of the others.
    """
    if num_workers < 2 or len(work_s) != num_workers:
        return {}
    slowest = max(range(num_workers), key=lambda rank: work_s[rank])
    rest = [seconds for rank, seconds in enumerate(work_s) if rank != slowest]
    return {
        "work_s": work_s[0],
        "work_slowest_s": work_s[slowest],
        "work_others_s": median_low(rest),
        "slowest_worker": slowest,
    }


def _logged(every: int, log_every: int) -> int:
    """At least so many steps, and such as have a line."""
    return log_every * -(-every // log_every)


def _weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """Matrices and kernels, in the order of their registration, which is as a rule that of the forward pass.

    Not tables of embeddings: most of their rows have no gradient, whatever happens further up.
    """
    for module in model.modules():
        if not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            yield from (p for p in module.parameters(recurse=False) if p.ndim >= 2 and p.requires_grad)


def _unit_biases(model: nn.Module) -> list[nn.Parameter]:
    """The biases of hidden units: the gradient of a unit that passes nothing on for any sample is zero there.

    What a batch norm follows is left out, because it takes a bias away again; so is the last layer, the outputs.
    """
    leaves = [module for module in model.modules() if not list(module.children())]
    followed = {id(one) for one, other in pairwise(leaves) if isinstance(other, _BatchNorm)}
    layers = [
        leaf for leaf in leaves if isinstance(leaf, nn.Linear | _ConvNd | _BatchNorm) and id(leaf) not in followed
    ]
    biases = [layer.bias for layer in layers[:-1]]
    return [bias for bias in biases if isinstance(bias, nn.Parameter) and bias.requires_grad]


def _dense_grad(parameter: nn.Parameter) -> Tensor | None:
    grad = parameter.grad
    return grad if grad is not None and grad.layout is torch.strided else None
