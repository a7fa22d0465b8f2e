"""Adam as the papers write it, on the mean of the workers' gradients, in plain tensor arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class TextbookAdam:
    """Kingma & Ba 2015, algorithm 1; decoupled decay Loshchilov & Hutter 2019; amsgrad Reddi et al. 2018.

    One parameter. Parameters of lower precision are rounded from a float32 master after every step.
    """

    value: Tensor
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    decoupled: bool = True
    amsgrad: bool = False
    maximize: bool = False
    steps: int = 0
    master: Tensor = field(init=False)
    m: Tensor = field(init=False)
    v: Tensor = field(init=False)
    v_max: Tensor = field(init=False)

    def __post_init__(self) -> None:
        precision = torch.float64 if self.value.dtype == torch.float64 else torch.float32
        self.master = self.value.detach().to(precision, copy=True)
        self.m, self.v, self.v_max = (torch.zeros_like(self.master) for _ in range(3))

    def step(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """One update on the mean of one gradient a worker; None counts as zeros, and if all are, nothing happens."""
        present = [g.detach().to(self.master.dtype) for g in gradients if g is not None]
        if present:
            self._update(torch.stack(present).sum(0) / len(gradients))
        return self.rounded

    @property
    def rounded(self) -> Tensor:
        """The parameter itself."""
        return self.master.to(self.value.dtype, copy=True)

    def _update(self, g: Tensor) -> None:
        beta1, beta2 = self.betas
        self.steps += 1
        g = -g if self.maximize else g
        if self.decoupled:
            self.master = self.master * (1 - self.lr * self.weight_decay)
        else:
            g = g + self.weight_decay * self.master
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g * g
        m_hat = self.m / (1 - beta1**self.steps)
        v_hat = self.v / (1 - beta2**self.steps)
        if self.amsgrad:
            self.v_max = torch.maximum(self.v_max, self.v)
            v_hat = self.v_max / (1 - beta2**self.steps)
        self.master = self.master - self.lr * m_hat / (v_hat.sqrt() + self.eps)
