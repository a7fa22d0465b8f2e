"""What a rule is: from gradient to new parameter, elementwise, with state of the parameter's own shape."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["Hyper", "Operands", "Rule"]

Hyper = Mapping[str, Any]
"""One ``param_groups`` entry: lr, betas, eps, ... as the user (or a scheduler) left it."""


@dataclass(frozen=True)
class Operands:
    """Flat tensors of the pieces to be updated, position by position: the same piece at the same index."""

    params: list[Tensor]
    grads: list[Tensor]
    state: Mapping[str, list[Tensor]]
    steps: list[Tensor]
    """Committed updates so far, a float32 scalar each; the rule adds one."""


class Rule(ABC):
    """An elementwise optimizer update. Elementwise, so that a slice can be updated without the rest."""

    hyper_names: tuple[str, ...]
    """The entries of a parameter group that the rule reads: these must be the same on all ranks."""

    @abstractmethod
    def state_names(self, hyper: Hyper) -> Sequence[str]:
        """The names of the state tensors, each of the parameter's shape and zero at the start."""

    @abstractmethod
    def check(self, hyper: Hyper) -> None:
        """Raise ConfigurationError for a hyper-parameter that is out of range."""

    @abstractmethod
    def update(self, operands: Operands, hyper: Hyper) -> None:
        """Update ``operands.params``, the state and the step counts in place."""
