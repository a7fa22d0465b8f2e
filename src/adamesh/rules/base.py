"""What a rule is: from gradient to new parameter, elementwise, with state of the parameter's own shape."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

__all__ = ["FUSED_DEVICES", "Hyper", "Moment", "Operands", "Rule"]

Hyper = Mapping[str, Any]
"""One ``param_groups`` entry: lr, betas, eps, ... as the user (or a scheduler) left it."""

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
"""Where torch has fused kernels, for the rules that have one."""


@dataclass(frozen=True)
class Operands:
    """Flat tensors of the pieces to be updated, position by position: the same piece at the same index."""

    params: list[Tensor]
    grads: list[Tensor]
    state: Mapping[str, list[Tensor]]
    steps: list[Tensor]
    """Committed updates so far, a float32 scalar each; the rule adds one."""
    scalars: Mapping[str, list[Tensor]] = field(default_factory=dict)
    """The rule's own numbers per parameter, by name: a float32 scalar each, which the rule brings up to date."""


@dataclass(frozen=True)
class Moment:
    """What a state tensor is a moving average of."""

    order: int
    """1: of gradients, or of steps; 2: of squares."""
    decay: float | None = None
    """b, if the rule divides by ``1 - b^t`` where it uses the tensor; None: it is used as it is."""


class Rule(ABC):
    """An elementwise optimizer update. Elementwise, so that a slice can be updated without the rest."""

    hyper_names: tuple[str, ...]
    """The entries of a parameter group that the rule reads: these must be the same on all ranks."""

    scalars: ClassVar[Mapping[str, float]] = MappingProxyType({})
    """Numbers kept per parameter beside the step count, and their values at the start.

    They may depend on hyper-parameters and step counts only, so that they are the same on all ranks: a rank that
    owns nothing of a parameter keeps them by updating an empty piece of it.
    """

    torch_counts_steps: ClassVar[bool] = True
    """Whether torch's optimizer of this rule has a "step" in its state."""

    @abstractmethod
    def state_names(self, hyper: Hyper) -> Sequence[str]:
        """The names of the state tensors, each of the parameter's shape and zero at the start."""

    @abstractmethod
    def moments(self, hyper: Hyper) -> Mapping[str, Moment]:
        """What each of `state_names` is: those that islands may average each in their own rhythm."""

    @abstractmethod
    def check(self, hyper: Hyper) -> None:
        """Raise ConfigurationError for a hyper-parameter that is out of range."""

    def measures(self, hypers: Sequence[Hyper], updates: int) -> str | None:
        """The state tensor whose sum of magnitudes over all parameters `advance` wants in the coming step, if any.

        Args:
            hypers: all parameter groups.
            updates: committed updates before this step, of the parameters that had the most.
        """
        return None

    def advance(self, hypers: Sequence[Hyper], updates: int, measured: float) -> Mapping[str, Any]:
        """What the step, which is committed, makes of entries of the parameter groups: of all of them alike.

        Everything that it may depend on is the same on all ranks, and so is what comes of it. It holds from the next
        step on.

        Args:
            hypers: all parameter groups.
            updates: committed updates before this step.
            measured: before this step, what `measures` asked for.
        """
        return {}

    @abstractmethod
    def update(self, operands: Operands, hyper: Hyper) -> None:
        """Update ``operands.params``, the state and the step counts in place."""
