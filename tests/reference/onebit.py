"""1-bit Adam as its paper writes it, on one parameter and every worker's gradient, in plain tensor arithmetic.

Tang et al. 2021, algorithm 1, and the sharded form: gradients instead of momenta go up, and differences come down. The
codec is a function from a tensor to what is left of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import adamesh
from adamesh.codecs.base import Stream

Coding = Callable[[Tensor], Tensor]


def signs(x: Tensor) -> Tensor:
    """What `adamesh.Sign`, which has a battery of its own, leaves of a parameter."""
    codec, filled = adamesh.Sign(), torch.nn.functional.pad(x, (0, -len(x) % 64)).view(1, -1)
    payload = torch.zeros(1, codec.payload_bytes(filled.numel()), dtype=torch.uint8)
    codec.encode(filled, payload, Stream(0))
    decoded = torch.empty_like(filled)
    codec.decode(payload, decoded)
    return decoded[0, : len(x)]


@dataclass
class TextbookOneBitAdam:
    """One flat parameter on ``workers`` workers; exact until ``freeze_at`` updates."""

    value: Tensor
    workers: int
    freeze_at: int
    coding: Coding = signs
    momentum_travels: bool = False
    lr: float = 1e-2
    betas: tuple[float, float] = (0.875, 0.99)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    floor: float = 0.01
    steps: int = 0
    master: Tensor = field(init=False)
    m: Tensor = field(init=False)
    v: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.master, self.value = self.value.clone(), self.value.clone()
        self.m, self.v, self.returned = (torch.zeros_like(self.master) for _ in range(3))
        self.sent = [torch.zeros_like(self.master) for _ in range(self.workers)]

    @property
    def frozen(self) -> bool:
        return self.steps >= self.freeze_at

    def step(self, gradients: Sequence[Tensor]) -> Tensor:
        """One update; returns the parameter as everybody has it."""
        if not self.frozen:
            self._update_moments(sum(gradients, torch.zeros_like(self.m)) / self.workers)
        elif self.momentum_travels:
            self._average_momenta(gradients)
        else:
            beta1, g = self.betas[0], self._mean(gradients)
            self.m = beta1 * self.m + (1 - beta1) * g
        coded = self.frozen
        self.steps += 1
        corrected = self.v / (1 - self.betas[1] ** min(self.steps, self.freeze_at))
        m_hat = self.m / (1 - self.betas[0] ** self.steps)
        self.master = self.master * (1 - self.lr * self.weight_decay) - self.lr * m_hat / (corrected.sqrt() + self.eps)
        if self.steps == self.freeze_at:
            self._raise_to_floor()
        difference = self.master - self.value
        self.value = self.value + (self.coding(difference) if coded and not self.momentum_travels else difference)
        return self.value

    def _update_moments(self, g: Tensor) -> None:
        beta1, beta2 = self.betas
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g * g

    def _average_momenta(self, gradients: Sequence[Tensor]) -> None:
        """Every worker's own momentum goes up, the owners' average down, each with feedback."""
        beta1 = self.betas[0]
        mean = self._mean([beta1 * self.m + (1 - beta1) * g for g in gradients])
        self.m = self.coding(mean + self.returned)
        self.returned = mean + self.returned - self.m

    def _mean(self, signals: Sequence[Tensor]) -> Tensor:
        """Of what is left of every worker's signal, which has what was left out before in it."""
        total = torch.zeros_like(self.m)
        for i, signal in enumerate(signals):
            x = signal + self.sent[i]
            decoded = self.coding(x)
            self.sent[i] = x - decoded
            total = total + decoded
        # Sums of equal numbers cancel; the sign of what rounding leaves of them must not decide.
        return total * (1 / self.workers)

    def _raise_to_floor(self) -> None:
        blocks = [torch.clamp(block, min=self.floor * float(block.mean())) for block in self.v.split(64)]
        self.v = torch.cat(blocks)
