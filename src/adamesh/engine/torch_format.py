"""torch.optim's own state dicts: made of a whole gathered state, and taken apart again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adamesh.engine.bucket import LiveSlot
from adamesh.engine.engine import without_params
from adamesh.engine.table import ROW_KEYS
from adamesh.errors import CheckpointError
from adamesh.rules.base import Hyper, Rule

__all__ = ["GivenState", "given_state", "torch_state"]

_TORCH_GROUP = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
"""What torch's optimizers keep in a group beside the hyper-parameters."""


@dataclass(frozen=True)
class GivenState:
    """A state dict of torch's, by our parameter names."""

    tensors: dict[str, dict[str, Tensor]]
    counts: dict[str, int]
    numbers: dict[str, dict[str, float]]
    """The rule's scalars."""
    groups: list[dict[str, Any]]
    """As JSON can hold them."""


def torch_state(
    rule: Rule,
    slots: Mapping[str, LiveSlot],
    tensors: Mapping[str, Mapping[str, Tensor]],
    groups: Sequence[Hyper],
    names: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """What torch's optimizer of this rule would give as its ``state_dict()``.

    Args:
        rule: whose state it is.
        slots: by parameter name.
        tensors: whole state tensors, by parameter name.
        groups: the parameter groups.
        names: of the parameters of each group.
    """
    state: dict[int, dict[str, Any]] = {}
    records: list[dict[str, Any]] = []
    position = 0
    for group, members in zip(groups, names, strict=True):
        for number, name in enumerate(members, start=position):
            slot = slots[name]
            counted = {"step": torch.tensor(float(slot.steps), device="cpu")} if rule.torch_counts_steps else {}
            scalars = {key: value.cpu().clone() for key, value in slot.scalars.items()}
            entry = {**counted, **scalars, **tensors.get(name, {})}
            if slot.steps and entry:
                state[number] = entry
        record = {**_TORCH_GROUP, **without_params(group), "params": list(range(position, position + len(members)))}
        records.append({**record, "param_names": list(members)} if "param_names" in group else record)
        position += len(members)
    return {"state": state, "param_groups": records}


def given_state(
    state_dict: Mapping[str, Any] | None, rule: Rule, owner: str, names: Sequence[str], groups: Sequence[Hyper]
) -> GivenState:
    """A state dict of torch's, checked against the optimizer that will take it.

    Args:
        state_dict: what was given.
        rule: the optimizer's.
        owner: what torch's optimizer of that rule is called.
        names: of all parameters, in order.
        groups: the optimizer's parameter groups.

    Raises:
        CheckpointError: it is of another kind of optimizer, or of other parameters.
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise CheckpointError(
            f"load_full_state_dict() takes, on the first worker, what torch.optim.{owner}.state_dict() gives"
        )
    sizes = [len(group["params"]) for group in state_dict["param_groups"]]
    ours = [len(group["params"]) for group in groups]
    if sizes != ours:
        raise CheckpointError(
            f"the state dict has parameter groups of {sizes} parameters and this optimizer of {ours}: "
            "build it with the same groups first"
        )
    params = [param for group in groups for param in group["params"]]
    counted = ("step",) if rule.torch_counts_steps else ()
    given = GivenState({}, {}, {}, [_jsonable(without_params(group)) for group in state_dict["param_groups"]])
    for number, entry in state_dict["state"].items():
        missing = [key for key in (*counted, *rule.scalars) if key not in entry]
        if number not in range(len(params)) or missing:
            raise CheckpointError(
                f"the state of parameter {number!r} holds {sorted(entry)} and no {(missing or ['step'])[0]!r}, or is "
                f"one too many: it is not of torch.optim.{owner} over these parameters"
            )
        alone = {"step", *rule.scalars}
        tensors = {key: value for key, value in entry.items() if key not in alone and isinstance(value, Tensor)}
        for key, tensor in tensors.items():
            if tensor.shape != (params[number].shape[:1] if key in ROW_KEYS else params[number].shape):
                raise CheckpointError(
                    f"{key} of parameter {number} has shape {tuple(tensor.shape)}, the parameter "
                    f"{tuple(params[number].shape)}: build the same model first"
                )
        if tensors or counted:
            name = names[number]
            given.tensors[name] = tensors
            # Where torch does not count, a state is that of one step at least.
            given.counts[name] = int(entry.get("step", 1))
            given.numbers[name] = {key: float(entry[key]) for key in rule.scalars}
    return given


def _jsonable(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items()}
