"""Islands that step alone and meet now and then, in plain tensor arithmetic: one parameter, one gradient an island."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.reference.adam import TextbookAdam


@dataclass
class LocalAdam:
    """Local Adam (Cheng & Glasgow 2025), and DES-LOC (Iacob et al. 2025) with other periods for the moments."""

    value: Tensor
    num_islands: int
    h: int
    exp_avg: int = 1
    exp_avg_sq: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        self.islands = [TextbookAdam(self.value.clone(), **self.options) for _ in range(self.num_islands)]

    def step(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        """Every island's parameter after a step on its own gradient; None skips the island's update."""
        for island, gradient in zip(self.islands, gradients, strict=True):
            island.step([gradient])
        self.steps += 1
        if self.steps % self.h == 0:
            self._share([island.master for island in self.islands])
        if self.steps % (self.h * self.exp_avg) == 0:
            self._corrected("m", 0)
        if self.steps % (self.h * self.exp_avg_sq) == 0:
            self._corrected("v", 1)
        return [island.rounded for island in self.islands]

    def _share(self, tensors: Sequence[Tensor]) -> None:
        mean = torch.stack(list(tensors)).mean(0)
        for tensor in tensors:
            tensor.copy_(mean)

    def _corrected(self, name: str, which: int) -> None:
        """The mean of the bias-corrected moments of the islands that have some, each corrected back."""
        having = [island for island in self.islands if island.steps]
        if having:
            corrections = [1 - island.betas[which] ** island.steps for island in having]
            mean = torch.stack([getattr(i, name) / c for i, c in zip(having, corrections, strict=True)]).mean(0)
            for island, correction in zip(having, corrections, strict=True):
                setattr(island, name, mean * correction)
