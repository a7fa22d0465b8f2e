"""Does a saved state belong to this optimizer? What every kind of optimizer asks before it takes one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from adamesh.errors import CheckpointError

__all__ = ["StateHead", "check_fit", "restore_group"]


@dataclass(frozen=True)
class StateHead:
    """What a saved state holds beside its tensors: the same on every worker, parameters by the optimizer's names."""

    step: int
    steps: Mapping[str, int]
    """Committed updates of each parameter."""
    scalars: Mapping[str, Mapping[str, float]]
    """The rule's own numbers of each parameter that has some."""
    groups: list[dict[str, Any]]
    """The parameter groups, with names for parameters."""
    sync: Mapping[str, Any] = field(default_factory=dict)
    """What is to be known of islands that step alone; empty of others."""


def check_fit(
    ours: Sequence[Sequence[str]], names: Mapping[str, str], saved: Iterable[str], groups: Sequence[Mapping[str, Any]]
) -> None:
    """Raise CheckpointError unless a saved state is of this optimizer's parameters and groups.

    Args:
        ours: this optimizer's parameter names, by group.
        names: this optimizer's parameter names -> the saved state's.
        saved: the saved state's parameter names.
        groups: the saved parameter groups.
    """
    missing, extra = sorted(set(names.values()) - set(saved)), sorted(set(saved) - set(names.values()))
    if missing or extra:
        raise CheckpointError(
            f"the saved state is of other parameters: {len(missing)} of this optimizer's are not in it "
            f"({missing[:3]}), {len(extra)} of its own are unknown here ({extra[:3]}). Build the same model first"
        )
    here = [[names[name] for name in group] for group in ours]
    theirs = [list(group["params"]) for group in groups]
    if here != theirs:
        raise CheckpointError(
            f"the saved state has parameter groups of {[len(g) for g in theirs]} parameters and this optimizer of "
            f"{[len(g) for g in here]}, or the same in another order: build it with the same groups first"
        )


def restore_group(group: dict[str, Any], saved: Mapping[str, Any]) -> None:
    """Overwrite a group's hyper-parameters by saved ones."""
    for key, value in saved.items():
        if key in ("params", "param_names", "sparse"):  # as the optimizer was built
            continue
        if key in group and isinstance(group[key], Tensor):
            group[key].fill_(float(value))
        elif isinstance(value, list):
            group[key] = tuple(value)
        else:
            group[key] = value
