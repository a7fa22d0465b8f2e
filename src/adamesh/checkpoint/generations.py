"""The generations of files in a checkpoint folder: one begins, is committed, and takes the place of those before."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from adamesh.checkpoint.disk import Disk
from adamesh.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from adamesh.checkpoint.share import Share
from adamesh.errors import CheckpointError

__all__ = ["begin", "commit", "record_name", "told", "with_shares"]

_OURS = re.compile(
    r"(?:begun-|(?:model|state|share)-|manifest-)(\d{4,})(?:-\d{5,}-of-\d{5,})?(?:\.(?:safetensors|json|draft))?"
    r"|\.tmp\w{6}"
)
"""Files that a save makes: the numbered ones, and those that safetensors renames to them when they are whole."""


def begin(folder: Path, disk: Disk) -> int:
    """Make the folder, and claim the number of a new generation: no number is used twice, whatever became of it.

    A save to the folder that is still under way is overtaken: it finds the claim, and gives up.
    """
    disk.make_folder(folder)
    generation = _last_generation(folder) + 1
    disk.claim(folder / f"begun-{generation:04d}")
    _remove_unfinished(folder, generation, disk)
    return generation


def record_name(generation: int, rank: int, size: int) -> str:
    """The file in which a worker says that its share is whole."""
    return f"share-{generation:04d}-{rank:05d}-of-{size:05d}.json"


def with_shares(manifest: Manifest, shares: Sequence[Share]) -> Manifest:
    """A manifest with what all workers wrote."""
    return replace(
        manifest,
        files=tuple(record for share in shares for record in share.files),
        model={name: record for share in shares for name, record in share.model.items()},
        runs=tuple(run for share in shares for run in share.runs),
    )


def commit(folder: Path, manifest: Manifest, disk: Disk) -> None:
    """Make what all workers wrote the checkpoint of the folder.

    Raises:
        CheckpointError: something of it is not there, or a newer save has begun in the folder.
    """
    _check_there(folder, manifest)
    newest = _last_generation(folder)
    if newest > manifest.generation:
        raise CheckpointError(
            f"a newer save to {folder} has begun (number {newest}) before this one (number {manifest.generation}) was "
            "complete, which is given up. Save to one folder from one place at a time"
        )
    disk.keep_folder(folder)
    draft = folder / f"manifest-{manifest.generation:04d}.draft"
    disk.write_text(draft, manifest.dumps())
    disk.replace(draft, folder / MANIFEST)
    # From here on the new checkpoint is the one that is found; the rest is tidying, and may fail.
    with contextlib.suppress(Exception):
        _remove_all_but(manifest, folder, manifest.generation, disk)


def told(error: Exception, folder: Path) -> CheckpointError:
    """What went wrong, as the caller of a save is told it."""
    if isinstance(error, CheckpointError):
        return error
    remedy = ". Free space or choose another folder" if isinstance(error, (OSError, SafetensorError)) else ""
    said = CheckpointError(
        f"the checkpoint {folder} could not be written ({type(error).__name__}: {error}); what was there before is "
        f"still valid{remedy}"
    )
    said.__cause__ = error
    return said


def _check_there(folder: Path, manifest: Manifest) -> None:
    """Raise if other workers wrote elsewhere: to another folder, or to a disk that only they see."""
    for record in manifest.files:
        file = folder / record.name
        if not file.is_file() or file.stat().st_size != record.num_bytes:
            raise CheckpointError(
                f"a worker wrote {record.name} and the first worker does not find it in {folder}: give all workers the "
                "same folder, on a disk that all of them see. What was there before is still valid"
            )


def _remove_unfinished(folder: Path, generation: int, disk: Disk) -> None:
    """What saves that were cut short left behind would fill the disk; what a damaged manifest means is not known."""
    if not (folder / MANIFEST).exists():
        _remove_all_but(None, folder, generation - 1, disk)
        return
    with contextlib.suppress(CheckpointError):
        _remove_all_but(read_manifest(folder), folder, generation - 1, disk)


def _remove_all_but(manifest: Manifest | None, folder: Path, last: int, disk: Disk) -> None:
    """Remove what generations up to ``last`` left, but for a manifest's files."""
    kept = {record.name for record in manifest.files} if manifest else set()
    for file in sorted(folder.iterdir()):
        match = _OURS.fullmatch(file.name)
        if match and file.name not in kept and int(match[1] or 0) <= last:
            disk.remove(file)


def _last_generation(folder: Path) -> int:
    """The highest generation any file here names."""
    matches = [_OURS.fullmatch(file.name) for file in folder.iterdir()]
    return max([_manifest_generation(folder), *(int(match[1]) for match in matches if match and match[1])])


def _manifest_generation(folder: Path) -> int:
    try:
        return read_manifest(folder).generation
    except CheckpointError:
        return 0
