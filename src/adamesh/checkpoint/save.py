"""``adamesh.save``: every worker writes its share, then one manifest makes them a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adamesh.checkpoint.disk import Disk
from adamesh.checkpoint.generations import begin, commit, told, with_shares
from adamesh.checkpoint.manifest import Manifest
from adamesh.checkpoint.share import Put, Share, bring_model, bring_state, headed, names_of, write_file
from adamesh.checkpoint.stateful import StatefulOptimizer
from adamesh.comm.accord import agree, first_says
from adamesh.errors import CheckpointError

__all__ = ["bring", "save", "save_on"]


def save(path: str | Path, model: nn.Module, optimizer: StatefulOptimizer, **extra: Any) -> None:
    """Write model and optimizer as a checkpoint folder. Collective; all workers give the same folder.

    A folder that holds a checkpoint already keeps it, whole, until the new one is complete; then the new one has
    taken its place. Buffers are the first worker's (or those of whichever worker writes them): average them first
    with `adamesh.average_buffers` where they differ. `adamesh.Saver` does the same behind training.

    Args:
        path: the folder; made if it is not there, on a disk that all workers see.
        model: whose parameters and buffers are written whole, in files that safetensors reads.
        optimizer: whose state is written in slices, by its owners.
        extra: anything that JSON can hold, given back by `adamesh.load`; the first worker's.

    Raises:
        CheckpointError: something cannot be written; on every worker. What was there before stays loadable.
        StateLost, PeerLost, CommunicationTimeout: an earlier ``step()`` raised it, and nothing can be saved since.
    """
    save_on(Disk(), Path(path), model, optimizer, extra)


def save_on(disk: Disk, folder: Path, model: nn.Module, optimizer: StatefulOptimizer, extra: dict[str, Any]) -> None:
    """`save` through a given disk, which tests cut short."""
    world = optimizer.mesh.world
    share = Share.empty()

    def put(file: str, tensors: Mapping[str, Tensor]) -> None:
        share.files.append(write_file(disk, folder / file, tensors))

    optimizer.refuse_if_broken()
    manifest = bring(disk, folder, model, optimizer, extra, share, put)
    raw = world.exchange(share.dumps().encode(), "save")
    problem: CheckpointError | None = None
    if world.rank == 0:
        try:
            commit(folder, with_shares(manifest, [Share.loads(text.decode(), folder) for text in raw]), disk)
        except Exception as error:
            problem = told(error, folder)
    agree(world, problem, CheckpointError, "save")


def bring(
    disk: Disk,
    folder: Path,
    model: nn.Module,
    optimizer: StatefulOptimizer,
    extra: Mapping[str, Any],
    share: Share,
    put: Put,
) -> Manifest:
    """Begin a save, and give this worker's share of the tensors to ``put``, file by file. Collective.

    Returns:
        The manifest, but for what workers write.

    Raises:
        CheckpointError: on every worker, if anything went wrong on any.
    """
    world = optimizer.mesh.world
    optimizer.flush()
    problem: CheckpointError | None = None
    generation = 0
    # Whatever goes wrong on one worker is told to the others, who would wait for it: hence `except Exception`.
    try:
        _check_extra(extra)
        if world.rank == 0:
            generation = begin(folder, disk)
    except Exception as error:
        problem = told(error, folder)
    agree(world, problem, CheckpointError, "save")
    generation = first_says(world, generation)
    means = optimizer.residual_means()
    manifest: Manifest | None = None
    suffix = f"{generation:04d}-{world.rank:05d}-of-{world.size:05d}.safetensors"
    with optimizer.agreed():
        try:
            bring_model(model, world, f"model-{suffix}", share, put)
        except Exception as error:
            problem = told(error, folder)
    try:
        if problem is None:
            names = names_of(model, optimizer)
            bring_state(optimizer, names, means, f"state-{suffix}", share, put)
            manifest = headed(optimizer, names, generation, extra)
    except Exception as error:
        problem = told(error, folder)
    agree(world, problem, CheckpointError, "save")
    assert manifest is not None
    return manifest


def _check_extra(extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"extra {key!r} cannot be written as JSON ({error}): give numbers, strings, lists and mappings; "
                "tensors belong in the model's buffers"
            ) from error
