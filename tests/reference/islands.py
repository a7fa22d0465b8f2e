"""Islands that step alone and meet now and then, in plain tensor arithmetic: one parameter, one gradient an island."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adamesh.sync.diloco import DiLoCo
from adamesh.sync.outer import Nesterov
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
                if name == "m" and self.steps % (self.h * self.exp_avg_sq):
                    self._within_adams_bound(island)

    @staticmethod
    def _within_adams_bound(island: TextbookAdam) -> None:
        """Ours: no more momentum than gradients could have made beside this second moment."""
        (b1, b2), t = island.betas, island.steps
        most = max(1, (1 - b1) / (1 - b2) ** 0.5) * (1 - b1**t) * (island.v / (1 - b2**t)).sqrt()
        island.m = island.m.clamp(-most, most)


@dataclass
class TextbookDiLoCo:
    """DiLoCo (Douillard et al. 2023, 2025), one parameter, which is parameter number ``number``.

    Which elements are in which fragment is a matter of taste; ours is said in plain words here once more.
    """

    value: Tensor
    number: int
    num_islands: int
    sync: DiLoCo
    options: dict[str, Any]
    steps: int = 0

    def __post_init__(self) -> None:
        self.islands = [TextbookAdam(self.value.clone(), **self.options) for _ in range(self.num_islands)]
        self.anchor = self.value.clone().reshape(-1)
        self.buffer = torch.zeros_like(self.anchor, dtype=torch.float64)
        self.on_the_way: dict[int, tuple[int, Tensor]] = {}

    def members(self, fragment: int) -> Tensor:
        """A mask: grains of 64 elements, dealt out in runs; the first run is fragment ``number``'s."""
        grains = torch.arange(self.value.numel()) // 64
        num_grains, count = -(-self.value.numel() // 64), self.sync.fragments
        bounds = torch.tensor([num_grains * run // count for run in range(1, count + 1)])
        mask = (torch.searchsorted(bounds, grains, right=True) + self.number) % count == fragment
        return mask.to(self.value.device)

    def step(self, gradients: Sequence[Tensor | None]) -> list[Tensor]:
        for island, gradient in zip(self.islands, gradients, strict=True):
            island.step([gradient])
        self.steps += 1
        for fragment in range(self.sync.fragments):
            if (self.steps + fragment * self.sync.h // self.sync.fragments) % self.sync.h == 0:
                far = torch.stack([self.anchor - island.master.reshape(-1) for island in self.islands]).mean(0)
                self.on_the_way[fragment] = (self.steps, far)
            if fragment in self.on_the_way and self.on_the_way[fragment][0] + self.sync.delay == self.steps:
                self._land(self.members(fragment), self.on_the_way.pop(fragment)[1])
        return [island.rounded for island in self.islands]

    def _land(self, members: Tensor, far: Tensor) -> None:
        rule, keep = self.sync.outer, self.sync.kept
        buffer = rule.momentum * self.buffer + far
        move = far + rule.momentum * buffer if isinstance(rule, Nesterov) else buffer
        self.buffer = torch.where(members, buffer, self.buffer)
        self.anchor = torch.where(members, self.anchor - rule.lr * move, self.anchor)
        for island in self.islands:
            own = island.master.reshape(-1)
            own.copy_(torch.where(members, keep * own + (1 - keep) * self.anchor, own))
