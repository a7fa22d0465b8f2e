"""Outer rules: how the mean pseudo-gradient moves the anchor, in plain arithmetic on flat tensors.

    SGD        b <- mu b + D         a <- a - lr b
    Nesterov   b <- mu b + D         a <- a - lr (D + mu b)

Polyak 1964; Sutskever, Martens, Dahl & Hinton 2013, with the learning rate outside the buffer, as torch has it. DiLoCo
(Douillard et al. 2023) takes Nesterov with lr 0.7 and momentum 0.9.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from adamesh.errors import ConfigurationError

__all__ = ["SGD", "Nesterov", "OuterRule"]


@dataclass(frozen=True)
class OuterRule(ABC):
    """Moves the anchor.

    Args:
        lr: share of the way from the anchor to the mean of the islands.
        momentum: share of the last move that is made again.

    Raises:
        ConfigurationError: a value is out of range.
    """

    lr: float
    momentum: float

    def __post_init__(self) -> None:
        if not (self.lr > 0 and 0.0 <= self.momentum < 1.0):
            raise ConfigurationError(
                f"{self}: lr must be above 0 and momentum at least 0 and below 1, as in Nesterov(lr=0.7, momentum=0.9)"
            )

    def step(self, anchor: Tensor, buffer: Tensor | None, mean: Tensor) -> None:
        """Move ``anchor`` and ``buffer`` in place by the mean pseudo-gradient, all flat and of one length.

        Without momentum there is no buffer.
        """
        if buffer is None:
            anchor.sub_(mean, alpha=self.lr)
        else:
            self.move(anchor, buffer.mul_(self.momentum).add_(mean), mean)

    @abstractmethod
    def move(self, anchor: Tensor, buffer: Tensor, mean: Tensor) -> None:
        """Move ``anchor`` in place, with the new buffer."""


@dataclass(frozen=True)
class SGD(OuterRule):
    """SGD on the anchor; with ``lr=1`` and no momentum, the anchor becomes the mean of the islands."""

    lr: float = 1.0
    momentum: float = 0.0

    def move(self, anchor: Tensor, buffer: Tensor, mean: Tensor) -> None:
        anchor.sub_(buffer, alpha=self.lr)


@dataclass(frozen=True)
class Nesterov(OuterRule):
    """Nesterov's momentum on the anchor."""

    lr: float = 0.7
    momentum: float = 0.9

    def move(self, anchor: Tensor, buffer: Tensor, mean: Tensor) -> None:
        anchor.sub_(mean, alpha=self.lr).sub_(buffer, alpha=self.lr * self.momentum)
