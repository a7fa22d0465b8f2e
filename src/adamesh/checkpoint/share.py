"""A worker's share of a checkpoint: which tensors it writes, and what it says about them."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adamesh.checkpoint.disk import Disk, digest
from adamesh.checkpoint.manifest import FileRecord, Manifest, StateRun, TensorRecord
from adamesh.checkpoint.sealed import seal, unseal
from adamesh.checkpoint.stateful import StatefulOptimizer
from adamesh.comm.base import Communicator
from adamesh.engine.islands_state import renamed
from adamesh.engine.residuals import RESIDUAL
from adamesh.errors import CheckpointError

__all__ = ["Put", "Share", "bare", "bring_model", "bring_state", "headed", "names_of", "write_file"]

_FORMAT = "adamesh-share"
_VERSION = 1

Put = Callable[[str, Mapping[str, Tensor]], None]
"""Takes the tensors of one file, whose name comes first."""


@dataclass(frozen=True)
class Share:
    """What one worker writes."""

    files: list[FileRecord]
    model: dict[str, TensorRecord]
    runs: list[StateRun]

    @classmethod
    def empty(cls) -> "Share":
        return cls([], {}, [])

    def dumps(self) -> str:
        """As text that carries its own checksum."""
        return seal(asdict(self), _FORMAT, _VERSION)

    @classmethod
    def loads(cls, text: str, where: Path) -> "Share":
        """The inverse of :meth:`dumps`; raises CheckpointError where it was altered."""
        raw = unseal(text, _FORMAT, _VERSION, where)
        return cls(
            [FileRecord(**record) for record in raw["files"]],
            {name: TensorRecord(**record) for name, record in raw["model"].items()},
            [StateRun(**run) for run in raw["runs"]],
        )


def bare(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s, whose names do not depend on being compiled."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def names_of(model: nn.Module, optimizer: StatefulOptimizer) -> dict[str, str]:
    """Optimizer's name of a parameter -> the model's, or its own where the model does not have it."""
    of_param = {id(param): name for name, param in bare(model).named_parameters()}
    return {name: of_param.get(id(param), name) for name, param in optimizer.named_params()}


def bring_model(model: nn.Module, world: Communicator, file: str, share: Share, put: Put) -> None:
    """This worker's share of parameters and buffers, whole."""
    whole, records = _deal(bare(model), world.rank, world.size, file)
    if whole:
        put(file, whole)
        share.model.update(records)


def bring_state(
    optimizer: StatefulOptimizer,
    names: Mapping[str, str],
    means: Mapping[str, Tensor],
    file: str,
    share: Share,
    put: Put,
) -> None:
    """This worker's runs of the optimizer state."""
    flat: dict[str, Tensor] = {}
    for run in optimizer.runs_to_save():
        name = names[run.name]
        tensors = dict(run.tensors)
        if run.name in means:
            tensors[RESIDUAL] = means[run.name]
        flat |= {f"{key}/{name}": tensor for key, tensor in tensors.items()}
        share.runs.append(StateRun(file, name, run.start, run.stop, tuple(tensors), run.width))
    if flat:
        put(file, flat)


def write_file(disk: Disk, file: Path, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write one file, and say how it must be found."""
    disk.write_tensors(file, tensors)
    return FileRecord(file.name, file.stat().st_size, digest(file))


def headed(
    optimizer: StatefulOptimizer, names: Mapping[str, str], generation: int, extra: Mapping[str, Any]
) -> Manifest:
    """A manifest that holds everything but what workers write; its values are its own."""
    head = optimizer.head()
    groups = [{**group, "params": [names[name] for name in group["params"]]} for group in head.groups]
    manifest = Manifest(
        generation=generation,
        files=(),
        model={},
        runs=(),
        steps={names[name]: steps for name, steps in head.steps.items()},
        scalars={names[name]: dict(scalars) for name, scalars in head.scalars.items()},
        step=head.step,
        mesh=optimizer.mesh.shape,
        param_groups=[{k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()} for group in groups],
        extra=dict(extra),
        sync=renamed(head.sync, names),
    )
    return Manifest.loads(manifest.dumps(), Path())


def _deal(model: nn.Module, rank: int, size: int, file: str) -> tuple[dict[str, Tensor], dict[str, TensorRecord]]:
    """The model's tensors that this worker writes to ``file``, and where each name is (tied ones share a key)."""
    key_of: dict[tuple[int, torch.dtype, tuple[int, ...], tuple[int, ...]], str] = {}
    loads = [0] * size
    dealt: dict[str, int] = {}
    mine: dict[str, Tensor] = {}
    records: dict[str, TensorRecord] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"model state {name!r} is a {type(tensor).__name__}, and checkpoints hold tensors and JSON only. Keep "
                "it out of get_extra_state() and give it to adamesh.save(..., name=value)"
            )
        identity = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        key = key_of.setdefault(identity, name) if tensor.numel() else name
        if key not in dealt:
            dealt[key] = min(range(size), key=lambda r: (loads[r], r))
            loads[dealt[key]] += tensor.numel() * tensor.element_size()
        if dealt[key] == rank:
            # Complex tensors go as pairs of reals: safetensors knows only one kind of them.
            real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
            mine.setdefault(key, real.contiguous())
            records[name] = TensorRecord(file, key, tuple(tensor.shape))
    return mine, records
