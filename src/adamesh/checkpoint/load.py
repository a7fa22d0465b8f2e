"""``adamesh.load``: verify everything, then take it, at any world size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from adamesh.checkpoint.disk import digest
from adamesh.checkpoint.manifest import Manifest, StateRun, read_manifest
from adamesh.checkpoint.share import bare, names_of
from adamesh.checkpoint.stateful import StatefulOptimizer
from adamesh.comm.accord import agree
from adamesh.engine.islands_state import renamed
from adamesh.engine.runs import PieceSource
from adamesh.errors import CheckpointError
from adamesh.reshard import plan_copies

__all__ = ["load", "load_model"]


def load(path: str | Path, model: nn.Module, optimizer: StatefulOptimizer) -> dict[str, Any]:
    """Take model and optimizer from a checkpoint folder. Collective; any number of workers.

    Everything is verified before anything is overwritten.

    Args:
        path: the folder that `adamesh.save` wrote.
        model: built as it was when saved.
        optimizer: built over that model's parameters, on any mesh.

    Returns:
        What was given to ``adamesh.save`` as extra.

    Raises:
        CheckpointError: the checkpoint is missing, cut short, altered, or does not fit; on every worker, and
            model and optimizer are as they were.
    """
    folder, world = Path(path), optimizer.mesh.world
    problem: CheckpointError | None = None
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(folder)
        _verify(folder, manifest, world.rank, world.size)
        _check_fit(manifest, bare(model), folder)
    except CheckpointError as error:
        problem = error
    agree(world, problem, CheckpointError, "load")
    assert manifest is not None
    _check_alike(world.exchange(manifest.digest, "load"), folder)
    tensors: dict[str, Tensor] = {}
    state: PieceSource | None = None
    try:
        names = names_of(model, optimizer)
        optimizer.check_fit(names, manifest.steps, manifest.param_groups)
        tensors = _read_model(folder, manifest)
        state = optimizer.fetch(FolderSource(folder, manifest, names))
    except CheckpointError as error:
        problem = error
    except (OSError, SafetensorError) as error:
        problem = CheckpointError(f"{folder} cannot be read: {error}. Load an earlier checkpoint")
    agree(world, problem, CheckpointError, "load")
    assert state is not None
    bare(model).load_state_dict(tensors)
    optimizer.restore_from(state, manifest.param_groups, manifest.step)
    return manifest.extra


def load_model(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Take only the model from a checkpoint folder, in one process: to predict with it, or to hand it on.

    Args:
        path: the folder that `adamesh.save` wrote.
        model: built as it was when saved.

    Returns:
        What was given to ``adamesh.save`` as extra.

    Raises:
        CheckpointError: the checkpoint is missing, cut short, altered, or does not fit; the model is as it was.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    _verify(folder, manifest, rank=0, size=1)
    _check_fit(manifest, bare(model), folder)
    try:
        tensors = _read_model(folder, manifest)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}. Load an earlier checkpoint") from error
    bare(model).load_state_dict(tensors)
    return manifest.extra


class FolderSource:
    """Optimizer state in a checkpoint's files, by the optimizer's own parameter names."""

    def __init__(self, folder: Path, manifest: Manifest, names: Mapping[str, str]) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}
        """Files stay open: reading the header of one takes milliseconds, and there are many runs in each."""
        self._names = names
        self._sync = renamed(manifest.sync, {saved: name for name, saved in names.items()})
        self._steps = manifest.steps
        self._scalars = manifest.scalars
        self._runs: dict[str, list[StateRun]] = {}
        for run in manifest.runs:
            self._runs.setdefault(run.name, []).append(run)

    @property
    def sync(self) -> Mapping[str, Any]:
        return self._sync

    def steps(self, name: str) -> int | None:
        return self._steps.get(self._names[name])

    def scalars(self, name: str) -> Mapping[str, float]:
        return self._scalars.get(self._names[name], {})

    def keys(self, name: str) -> Sequence[str]:
        runs = self._runs.get(self._names[name], [])
        return tuple(dict.fromkeys(key for run in runs for key in run.keys))

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        saved = self._names[name]
        runs = [run for run in self._runs.get(saved, []) if key in run.keys]
        parts = []
        for copy in plan_copies((run.range(i, key) for i, run in enumerate(runs)), start, stop, saved):
            file = self._file(runs[copy.source].file)
            parts.append(file.get_slice(f"{key}/{saved}")[copy.source_start : copy.source_stop])
        return torch.cat(parts) if parts else torch.empty(0, device="cpu")

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = safe_open(self._folder / name, "pt")
        return self._open[name]


def _verify(folder: Path, manifest: Manifest, rank: int, size: int) -> None:
    """Check sizes of all files and the checksums of this worker's share of them."""
    for number, record in enumerate(manifest.files):
        file = folder / record.name
        try:
            found = file.stat().st_size
            if found != record.num_bytes:
                raise CheckpointError(
                    f"{file} has {found} bytes and should have {record.num_bytes}: it was cut short or altered. "
                    "Load an earlier checkpoint"
                )
            if number % size == rank and digest(file) != record.sha256:
                raise CheckpointError(
                    f"{file} was altered: its sha256 is not the manifest's. Load an earlier checkpoint"
                )
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read ({error}). Load an earlier checkpoint") from error


def _check_alike(digests: Sequence[bytes], folder: Path) -> None:
    """Raise, on every worker, if they found different checkpoints: their replicas would part."""
    other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
    if other is not None:
        raise CheckpointError(
            f"worker {other} found another checkpoint than worker 0, which read {folder.name!r}: give all workers the "
            "same folder, on a disk that all of them see"
        )


def _check_fit(manifest: Manifest, model: nn.Module, folder: Path) -> None:
    state = model.state_dict()
    missing, unknown = sorted(set(state) - set(manifest.model)), sorted(set(manifest.model) - set(state))
    if missing or unknown:
        raise CheckpointError(
            f"{folder} is of another model: {len(missing)} of this model's tensors are not in it ({missing[:3]}), "
            f"{len(unknown)} of its own are unknown here ({unknown[:3]}). Build the same model first"
        )
    for name, tensor in state.items():
        if tuple(tensor.shape) != manifest.model[name].shape:
            raise CheckpointError(
                f"{name!r} has shape {manifest.model[name].shape} in {folder} and {tuple(tensor.shape)} in this model: "
                "build the same model first"
            )


def _read_model(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    by_file: dict[str, list[tuple[str, str]]] = {}
    for name, record in manifest.model.items():
        by_file.setdefault(record.file, []).append((name, record.key))
    tensors: dict[str, Tensor] = {}
    for file_name, wanted in by_file.items():
        with safe_open(folder / file_name, "pt") as file:
            for name, key in wanted:
                tensor = file.get_tensor(key)
                whole = tuple(tensor.shape) == manifest.model[name].shape
                tensors[name] = tensor if whole else torch.view_as_complex(tensor)
    return tensors
