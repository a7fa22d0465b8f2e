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


class OuterRule(ABC):
    """Moves the anchor."""

    lr: float
    momentum: float

    @abstractmethod
    def step(self, anchor: Tensor, buffer: Tensor | None, mean: Tensor) -> None:
        """Move ``anchor`` and ``buffer`` in place by the mean pseudo-gradient, all flat and of one length.

        Without momentum there is no buffer.
        """


def _check(rule: OuterRule) -> None:
    if not (rule.lr > 0 and 0.0 <= rule.momentum < 1.0):
        raise ConfigurationError(
            f"{rule}: lr must be above 0 and momentum at least 0 and below 1, as in Nesterov(lr=0.7, momentum=0.9)"
        )


@dataclass(frozen=True)
class SGD(OuterRule):
    """SGD on the anchor; with ``lr=1`` and no momentum, the anchor becomes the mean of the islands.

    Args:
        lr: share of the way from the anchor to the mean of the islands.
        momentum: share of the last move that is made again.

    Raises:
        ConfigurationError: a value is out of range.
    """

    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _check(self)

    def step(self, anchor: Tensor, buffer: Tensor | None, mean: Tensor) -> None:
        if buffer is None:
            anchor.sub_(mean, alpha=self.lr)
        else:
            buffer.mul_(self.momentum).add_(mean)
            anchor.sub_(buffer, alpha=self.lr)


@dataclass(frozen=True)
class Nesterov(OuterRule):
    """Nesterov's momentum on the anchor.

    Args:
        lr: share of the way from the anchor to the mean of the islands.
        momentum: share of the last move that is made again.

    Raises:
        ConfigurationError: a value is out of range.
    """

    lr: float = 0.7
    momentum: float = 0.9

    def __post_init__(self) -> None:
        _check(self)

    def step(self, anchor: Tensor, buffer: Tensor | None, mean: Tensor) -> None:
        if buffer is None:
            anchor.sub_(mean, alpha=self.lr)
        else:
            buffer.mul_(self.momentum).add_(mean)
            anchor.sub_(mean, alpha=self.lr).sub_(buffer, alpha=self.lr * self.momentum)
