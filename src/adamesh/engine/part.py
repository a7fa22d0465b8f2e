"""One worker's part of an optimizer's state as plain containers: ``state_dict()`` and back."""

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adamesh.engine.engine import Engine
from adamesh.engine.fit import StateHead
from adamesh.engine.islands_state import SHARED
from adamesh.engine.residuals import RESIDUAL
from adamesh.engine.runs import HeldRun, PieceSource, StateSource
from adamesh.engine.state_dict import export_mirrors, export_pieces, export_residuals
from adamesh.errors import CheckpointError

__all__ = ["part_of", "taken_apart", "warn_of_dropped"]

_FORMAT = 1


def part_of(engine: Engine, head: StateHead) -> dict[str, Any]:
    """This worker's part, with tensors as views; no collective."""
    sync = {key: value for key, value in head.sync.items() if key != "heads"}  # those are for all islands together
    state: dict[str, dict[str, Any]] = {
        slot.name: {"step": head.steps[slot.name], "shape": list(slot.param.shape), **head.scalars.get(slot.name, {})}
        for slot in engine.slots
    }
    for run in export_pieces(engine):
        state[run.name] |= {"start": run.start, "stop": run.stop, **run.tensors}
        if run.width != 1:
            state[run.name]["width"] = run.width
    residuals: dict[str, Any] = {}
    for run in export_residuals(engine):
        for key, tensor in run.tensors.items():
            label = f"{key}/{run.name}"
            label += f"/{run.start}" if label in residuals else ""  # fragments hold several runs of a parameter
            residuals[label] = {"name": run.name, "start": run.start, "stop": run.stop, key: tensor}
    mirrors = [
        {"name": run.name, "start": run.start, "stop": run.stop, **run.tensors} for run in export_mirrors(engine)
    ]
    return {
        "adamesh": {"format": _FORMAT, "step": head.step, **({"sync": sync} if sync else {})},
        "state": state,
        **({"residuals": residuals} if residuals else {}),
        **({"mirrors": mirrors} if mirrors else {}),
        "param_groups": head.groups,
    }


def taken_apart(engine: Engine, part: Mapping[str, Any]) -> tuple[PieceSource, int]:
    """What `part_of` gave, to be restored; and the number of steps made.

    Raises:
        CheckpointError: it is of another format, or a parameter has another shape.
    """
    head = part.get("adamesh")
    if not isinstance(head, Mapping) or head.get("format") != _FORMAT:
        raise CheckpointError(
            f"this state dict holds {sorted(map(str, part))}, not a part that adamesh's state_dict() gave. "
            "Load torch.optim's format with load_full_state_dict(), a checkpoint folder with adamesh.load()"
        )
    for slot in engine.slots:
        shape = part["state"].get(slot.name, {}).get("shape", list(slot.param.shape))
        if shape != list(slot.param.shape):
            raise CheckpointError(
                f"the saved state is of a parameter {slot.name!r} of shape {shape}, this optimizer's is "
                f"{list(slot.param.shape)}: build the same model first"
            )
    numbers = {
        name: {key: float(entry[key]) for key in engine.rule.scalars if key in entry}
        for name, entry in part["state"].items()
    }
    counts = {name: int(entry["step"]) for name, entry in part["state"].items()}
    entries = [{"name": name, **entry} for name, entry in part["state"].items() if "start" in entry]
    runs = [
        HeldRun(e["name"], e["start"], e["stop"], _tensors(e), e.get("width", 1))
        for e in [*entries, *part.get("residuals", {}).values(), *part.get("mirrors", ())]
    ]
    return PieceSource(runs, counts, numbers, head.get("sync", {})), int(head["step"])


def warn_of_dropped(engine: Engine, source: StateSource, stacklevel: int) -> None:
    """Warn of what a saved state holds and this plan has no use for."""
    wire, names = engine.plan.full_wire, [slot.name for slot in engine.slots]
    if not wire.keeps_residuals and any(RESIDUAL in source.keys(name) for name in names):
        warnings.warn(
            "the saved state holds what codecs with feedback have held back of the gradients, and this plan has no "
            f"feedback to send it with ({wire}): it is dropped. With the same wire it would be used",
            stacklevel=stacklevel,
        )
    has_anchors = any({*SHARED} & {*source.keys(name)} for name in names)
    if has_anchors and engine.transaction.agreement.outer is None:
        warnings.warn(
            f"the saved state holds an anchor and its momentum, and sync={engine.plan.sync} has none: it is "
            "dropped, and training goes on from the mean of the islands' parameters. With DiLoCo it would be used",
            stacklevel=stacklevel,
        )


def _tensors(entry: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in entry.items() if isinstance(value, Tensor)}
