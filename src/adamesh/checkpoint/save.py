"""``adamesh.save``: every worker writes its share, then one manifest makes them a checkpoint."""

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from adamesh.checkpoint.disk import Disk, digest
from adamesh.checkpoint.manifest import MANIFEST, FileRecord, Manifest, StateRun, TensorRecord, read_manifest
from adamesh.checkpoint.stateful import StatefulOptimizer
from adamesh.comm.accord import agree, first_says
from adamesh.comm.base import Communicator
from adamesh.engine.islands_state import renamed
from adamesh.engine.residuals import RESIDUAL
from adamesh.errors import CheckpointError

__all__ = ["save", "save_on"]

_OURS = re.compile(r"(?:model|state)-(\d{4,})-\d{5,}-of-\d{5,}\.safetensors|\.tmp\w{6}")
"""Files that a save makes: the numbered ones, and those that safetensors renames to them when they are whole."""


def save(path: str | Path, model: nn.Module, optimizer: StatefulOptimizer, **extra: Any) -> None:
    """Write model and optimizer as a checkpoint folder. Collective; all workers give the same folder.

    A folder that holds a checkpoint already keeps it, whole, until the new one is complete; then the new one has
    taken its place. Buffers are the first worker's (or those of whichever worker writes them): average them first
    with :func:`adamesh.average_buffers` where they differ.

    Args:
        path: the folder; made if it is not there, on a disk that all workers see.
        model: whose parameters and buffers are written whole, in files that safetensors reads.
        optimizer: whose state is written in slices, by its owners.
        extra: anything that JSON can hold, given back by :func:`adamesh.load`; the first worker's.

    Raises:
        CheckpointError: something cannot be written; on every worker. What was there before stays loadable.
        StateLost, PeerLost, CommunicationTimeout: an earlier ``step()`` raised it, and nothing can be saved since.
    """
    save_on(Disk(), Path(path), model, optimizer, extra)


def save_on(disk: Disk, folder: Path, model: nn.Module, optimizer: StatefulOptimizer, extra: dict[str, Any]) -> None:
    """:func:`save` through a given disk, which tests cut short."""
    world = optimizer.mesh.world
    optimizer.refuse_if_broken()
    optimizer.flush()
    problem: CheckpointError | None = None
    generation = 0
    # Whatever goes wrong on one worker is told to the others, who would wait for it: hence `except Exception`.
    try:
        _check_extra(extra)
        if world.rank == 0:
            disk.make_folder(folder)
            generation = _previous_generation(folder) + 1
            _remove_unfinished(folder, disk)
    except Exception as error:
        problem = _told(error, folder)
    agree(world, problem, CheckpointError, "save")
    generation = first_says(world, generation)
    means = optimizer.residual_means()
    share = Share([], {}, [])
    suffix = f"{generation:04d}-{world.rank:05d}-of-{world.size:05d}.safetensors"
    with optimizer.agreed():
        try:
            _write_model(folder, f"model-{suffix}", bare(model), world, share, disk)
        except Exception as error:
            problem = _told(error, folder)
    try:
        if problem is None:
            _write_state(folder, f"state-{suffix}", names_of(model, optimizer), optimizer, means, share, disk)
    except Exception as error:
        problem = _told(error, folder)
    agree(world, problem, CheckpointError, "save")
    shares = [json.loads(message) for message in world.exchange(json.dumps(asdict(share)).encode(), "save")]
    if world.rank == 0:
        try:
            manifest = _manifest(generation, shares, optimizer, names_of(model, optimizer), extra)
            _check_there(folder, manifest)
            _commit(folder, manifest, disk)
        except Exception as error:
            problem = _told(error, folder)
    agree(world, problem, CheckpointError, "save")


@dataclass(frozen=True)
class Share:
    """What one worker wrote."""

    files: list[FileRecord]
    model: dict[str, TensorRecord]
    runs: list[StateRun]


def bare(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s, whose names do not depend on being compiled."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def names_of(model: nn.Module, optimizer: StatefulOptimizer) -> dict[str, str]:
    """Optimizer's name of a parameter -> the model's, or its own where the model does not have it."""
    of_param = {id(param): name for name, param in bare(model).named_parameters()}
    return {name: of_param.get(id(param), name) for name, param in optimizer.named_params()}


def _write_model(folder: Path, file: str, model: nn.Module, world: Communicator, share: Share, disk: Disk) -> None:
    """This worker's share of parameters and buffers, whole."""
    whole, records = _deal(model, world.rank, world.size, file)
    if whole:
        _write(folder, file, whole, share, disk)
        share.model.update(records)


def _write_state(
    folder: Path,
    file: str,
    names: Mapping[str, str],
    optimizer: StatefulOptimizer,
    means: Mapping[str, Tensor],
    share: Share,
    disk: Disk,
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
        _write(folder, file, flat, share, disk)


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


def _write(folder: Path, name: str, tensors: Mapping[str, Tensor], share: Share, disk: Disk) -> None:
    disk.write_tensors(folder / name, tensors)
    share.files.append(FileRecord(name, (folder / name).stat().st_size, digest(folder / name)))


def _manifest(
    generation: int,
    shares: list[dict[str, Any]],
    optimizer: StatefulOptimizer,
    names: Mapping[str, str],
    extra: dict[str, Any],
) -> Manifest:
    head = optimizer.head()
    groups = [{**group, "params": [names[name] for name in group["params"]]} for group in head.groups]
    return Manifest(
        generation=generation,
        files=tuple(FileRecord(**record) for share in shares for record in share["files"]),
        model={name: TensorRecord(**record) for share in shares for name, record in share["model"].items()},
        runs=tuple(StateRun(**run) for share in shares for run in share["runs"]),
        steps={names[name]: steps for name, steps in head.steps.items()},
        scalars={names[name]: dict(scalars) for name, scalars in head.scalars.items()},
        step=head.step,
        mesh=optimizer.mesh.shape,
        param_groups=[{k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()} for group in groups],
        extra=extra,
        sync=renamed(head.sync, names),
    )


def _check_there(folder: Path, manifest: Manifest) -> None:
    """Raise if other workers wrote elsewhere: to another folder, or to a disk that only they see."""
    for record in manifest.files:
        file = folder / record.name
        if not file.is_file() or file.stat().st_size != record.num_bytes:
            raise CheckpointError(
                f"a worker wrote {record.name} and the first worker does not find it in {folder}: give all workers the "
                "same folder, on a disk that all of them see. What was there before is still valid"
            )


def _commit(folder: Path, manifest: Manifest, disk: Disk) -> None:
    draft = folder / f"{MANIFEST}.draft"
    disk.write_text(draft, manifest.dumps())
    disk.replace(draft, folder / MANIFEST)
    # From here on the new checkpoint is the one that is found; the rest is tidying, and may fail.
    with contextlib.suppress(Exception):
        _remove_all_but(manifest, folder, disk)


def _remove_unfinished(folder: Path, disk: Disk) -> None:
    """What saves that were cut short left behind would fill the disk; what a damaged manifest means is not known."""
    if not (folder / MANIFEST).exists():
        _remove_all_but(None, folder, disk)
        return
    with contextlib.suppress(CheckpointError):
        _remove_all_but(read_manifest(folder), folder, disk)


def _remove_all_but(manifest: Manifest | None, folder: Path, disk: Disk) -> None:
    kept = {record.name for record in manifest.files} if manifest else set()
    for file in sorted(folder.iterdir()):
        if file.name not in kept and _OURS.fullmatch(file.name):
            disk.remove(file)


def _previous_generation(folder: Path) -> int:
    """The highest generation any file here names: a number is never used twice, whole or not."""
    matches = [_OURS.fullmatch(file.name) for file in folder.iterdir()]
    return max([_manifest_generation(folder), *(int(match[1]) for match in matches if match and match[1])])


def _manifest_generation(folder: Path) -> int:
    try:
        return read_manifest(folder).generation
    except CheckpointError:
        return 0


def _check_extra(extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"extra {key!r} cannot be written as JSON ({error}): give numbers, strings, lists and mappings; "
                "tensors belong in the model's buffers"
            ) from error


def _told(error: Exception, folder: Path) -> CheckpointError:
    if isinstance(error, CheckpointError):
        return error
    remedy = ". Free space or choose another folder" if isinstance(error, (OSError, SafetensorError)) else ""
    told = CheckpointError(
        f"the checkpoint {folder} could not be written ({type(error).__name__}: {error}); what was there before is "
        f"still valid{remedy}"
    )
    told.__cause__ = error
    return told
