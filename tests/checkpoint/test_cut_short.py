"""A save that is cut short at any write boundary leaves the old checkpoint or the new one, whole."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from adamesh.checkpoint.disk import Disk
from adamesh.checkpoint.manifest import read_manifest
from adamesh.comm.base import Mesh
from adamesh.comm.process_group import process_mesh
from adamesh.comm.threads import Drop, Kill, ThreadWorld
from adamesh.errors import CheckpointError, CommunicationTimeout, PeerLost
from tests.checkpoint.faulty_disk import BEFORE, HALF_WAY, MOMENTS, FaultyDisk, Killed, kill_process, kill_thread
from tests.checkpoint.trainee import ALL_IN_ONE_BUCKET, Recipe, Trainee, Whole, trained
from tests.process_pool import ProcessPool, WorkerDied
from tests.thorough import THOROUGH, some

CPU = torch.device("cpu")
NEW, OLD = range(2), range(1)
COARSE = Recipe(bucket_mb=ALL_IN_ONE_BUCKET)


@dataclass(frozen=True)
class Scene:
    """A folder as a save finds it, and what is in it."""

    folder: Path
    old: Whole | None
    new: Whole


@pytest.fixture(scope="module", params=["nothing", "same-size", "other-size", "remains"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Nothing there; a checkpoint of 2 workers; of 3; of 2 beside the remains of a save that was cut short."""
    folder = tmp_path_factory.mktemp("scene") / "c"
    new = trained((1, 2), NEW, COARSE)
    if request.param == "nothing":
        return Scene(folder, None, new)
    old = trained((1, 3) if request.param == "other-size" else (1, 2), OLD, COARSE, save=folder)
    if request.param == "remains":
        save(folder, {0: FaultyDisk(operations_of_a_save(folder)[0].index("write_text"), HALF_WAY, kill_thread)})
    return Scene(folder, old, new)


def save(folder: Path, disks: dict[int, FaultyDisk]) -> list[Any]:
    """Two workers save; returns what each raised, or None."""

    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh, COARSE).train(NEW)
        trainee.save(folder, disk=disks.get(mesh.world.rank))

    return ThreadWorld(1, 2).run(live, return_exceptions=True)


def operations_of_a_save(folder: Path) -> list[list[str]]:
    """What each of two workers does to the disk, in a save to a copy of a folder."""
    copy = folder.with_name("counted")
    if folder.exists():
        shutil.copytree(folder, copy)
    disks = {rank: FaultyDisk(None) for rank in range(2)}
    assert save(copy, disks) == [None, None]
    shutil.rmtree(copy)
    return [disks[rank].operations for rank in range(2)]


@dataclass(frozen=True)
class Boundary:
    rank: int
    number: int
    moment: str
    replaced: bool
    """The new manifest is in its place by then."""
    tidying: bool
    """So it is, and the operation comes after that."""


def boundaries(operations: list[list[str]], moments: tuple[str, ...]) -> Iterator[Boundary]:
    for rank, names in enumerate(operations):
        for number in range(len(names)):
            for moment in moments:
                done = names[:number] if moment == BEFORE else names[: number + 1]
                yield Boundary(rank, number, moment, "replace" in done, "replace" in names[:number])


def at_every_boundary(
    scene: Scene, tmp_path: Path, happen: Callable[[], None], moments: tuple[str, ...]
) -> Iterator[tuple[Boundary, list[Any]]]:
    """Cut saves short, each in a copy of the scene; yields who raised what, after looking at what is left."""
    for boundary in some(boundaries(operations_of_a_save(scene.folder), moments), 14):
        folder = tmp_path / f"{boundary.rank}-{boundary.number}-{boundary.moment}"
        if scene.old is not None:
            shutil.copytree(scene.folder, folder)
        raised = save(folder, {boundary.rank: FaultyDisk(boundary.number, boundary.moment, happen)})
        holds(folder, scene.new if boundary.replaced else scene.old)
        if boundary.moment == HALF_WAY:
            takes_the_next_save(folder, scene.new)
        yield boundary, raised


def holds(folder: Path, expected: Whole | None) -> None:
    """A world of another size finds exactly this checkpoint, or none."""
    if expected is None:
        with pytest.raises(CheckpointError, match=r"holds no manifest.json|no checkpoint folder"):
            trained((1, 1), range(0), COARSE, load=folder)
    else:
        assert trained((1, 1), range(0), COARSE, load=folder) == expected


def takes_the_next_save(folder: Path, new: Whole) -> None:
    """And after that holds nothing else."""
    assert save(folder, {0: FaultyDisk(None), 1: FaultyDisk(None)}) == [None, None]
    holds(folder, new)
    kept = {record.name for record in read_manifest(folder).files}
    assert {file.name for file in folder.iterdir()} == kept | {"manifest.json"}


def test_a_worker_killed_at_any_write_boundary_leaves_the_old_or_the_new_checkpoint(scene, tmp_path):
    num_boundaries = 0
    for boundary, raised in at_every_boundary(scene, tmp_path, kill_thread, MOMENTS):
        assert isinstance(raised[boundary.rank], Killed)
        assert isinstance(raised[1 - boundary.rank], PeerLost)
        num_boundaries += 1
    assert num_boundaries >= (3 * 7 if THOROUGH else 14)


def test_a_worker_lost_at_any_message_of_a_save_leaves_the_old_or_the_new_checkpoint(scene, tmp_path):
    def live(mesh: Mesh, folder: Path) -> int:
        trainee = Trainee(mesh, COARSE).train(NEW)
        before = world.num_operations[mesh.world.rank]
        trainee.save(folder, disk=FaultyDisk(None))
        return before

    world = ThreadWorld(1, 2)
    [begin, _], end = world.run(live, tmp_path / "counted"), world.num_operations[0]
    messages = range(begin, end)
    assert len(messages) >= 4
    faults = [kind(rank, message) for kind in (Kill, Drop) for rank in range(2) for message in messages]
    for fault in some(faults, 9):
        folder = tmp_path / f"{fault}"
        if scene.old is not None:
            shutil.copytree(scene.folder, folder)
        world = ThreadWorld(1, 2, [fault])
        raised = world.run(live, folder, return_exceptions=True)
        assert isinstance(raised[1 - fault.rank], PeerLost if isinstance(fault, Kill) else CommunicationTimeout)
        # The last message only says that the manifest has taken its place.
        holds(folder, scene.new if fault.operation == messages[-1] else scene.old)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def disk_full_as_safetensors_says_it() -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def out_of_memory() -> None:
    raise MemoryError


def test_an_error_at_any_write_boundary_is_one_clear_error_on_both_workers(scene, tmp_path):
    errors = itertools.cycle([disk_full, disk_full_as_safetensors_says_it, out_of_memory, disk_full])

    def fail() -> None:
        next(errors)()

    for boundary, raised in at_every_boundary(scene, tmp_path, fail, (HALF_WAY,)):
        if boundary.tidying:
            assert raised == [None, None], boundary
            continue
        own, others = raised[boundary.rank], raised[1 - boundary.rank]
        assert isinstance(own, CheckpointError), boundary
        assert isinstance(others, CheckpointError), boundary
        assert "could not be written" in str(own)
        assert str(others) == f"on worker {boundary.rank}: {own}"


def test_after_a_save_that_failed_training_goes_on_as_if_it_had_not_been_tried(tmp_path):
    def live(mesh: Mesh, fail: bool) -> object:
        trainee = Trainee(mesh, COARSE).train(range(2))
        if fail:
            with pytest.raises(CheckpointError):
                trainee.save(tmp_path / "c", disk=FaultyDisk(1, HALF_WAY, disk_full) if mesh.world.rank else None)
        return trainee.train(range(2, 4)).snapshot()

    assert ThreadWorld(1, 2).run(live, True) == ThreadWorld(1, 2).run(live, False)


def test_a_folder_that_cannot_be_made_is_an_error_on_every_worker(tmp_path):
    (tmp_path / "file").write_text("in the way")

    def live(mesh: Mesh, folder: Path) -> str:
        with pytest.raises(CheckpointError, match=r"could not be written \((NotADirectory|FileExists)Error") as caught:
            Trainee(mesh, COARSE).save(folder)
        return str(caught.value)

    for folder in (tmp_path / "file", tmp_path / "file" / "c"):
        own, *others = ThreadWorld(1, 3).run(live, folder)
        assert others == [f"on worker 0: {own}"] * 2


def test_workers_that_write_to_different_folders_are_told_so_and_the_checkpoint_before_stays(tmp_path):
    old = trained((1, 2), OLD, COARSE, save=tmp_path / "c")
    (tmp_path / "elsewhere").mkdir()

    def live(mesh: Mesh) -> str:
        trainee = Trainee(mesh, COARSE).train(NEW)
        with pytest.raises(CheckpointError, match="give all workers the same folder, on a disk that all") as caught:
            trainee.save(tmp_path / ("elsewhere" if mesh.world.rank else "c"))
        return str(caught.value)

    own, other = ThreadWorld(1, 2).run(live)
    assert other == f"on worker 0: {own}"
    holds(tmp_path / "c", old)


def test_a_full_disk_is_an_error_on_every_worker_and_leaves_the_checkpoint_before(small_disk):
    disk = small_disk(300)
    folder = disk / "c"
    old = trained((1, 2), OLD, COARSE, save=folder)
    free = shutil.disk_usage(disk).free
    (disk / "other").write_bytes(bytes(free - 8192))
    for said in save(folder, {}):
        assert isinstance(said, CheckpointError)
        assert "No space left on device" in str(said)
        assert "what was there before is still valid. Free space or choose another folder" in str(said)
    holds(folder, old)
    (disk / "other").unlink()
    takes_the_next_save(folder, trained((1, 2), NEW, COARSE))


def test_the_manifest_takes_its_place_when_every_file_and_its_name_have_reached_the_disk(tmp_path, monkeypatch):
    events: list[object] = []
    monkeypatch.setattr(Disk, "_sync", staticmethod(events.append))
    rename = os.replace

    def replace(source: Path, target: Path) -> None:
        events.append("replaced")
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    trained((1, 2), OLD, COARSE, save=tmp_path / "c")
    at = events.index("replaced")
    for record in read_manifest(tmp_path / "c").files:
        written = events.index(tmp_path / "c" / record.name)
        assert tmp_path / "c" in events[written:at]
    assert tmp_path / "c" / "manifest-0001.draft" in events[:at]
    assert events[-1] == tmp_path / "c"


# --- really killed ------------------------------------------------------------------------------------------


def test_a_process_killed_at_any_write_boundary_leaves_the_old_or_the_new_checkpoint(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.checkpoint.killed_saver", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, timeout=60)
    old, new = trained((1, 1), OLD, COARSE), trained((1, 1), NEW, COARSE)
    folders = sorted(tmp_path.glob("killed-*"))
    assert len(folders) >= 3 * 7
    for folder in folders:
        holds(folder, new if folder.name.endswith("replaced") else old)
        if HALF_WAY in folder.name:
            takes_the_next_save(folder, trained((1, 2), NEW, COARSE))


def saving_process(folder: Path, victim: int, number: int, moment: str) -> str:
    mesh = process_mesh(None, CPU, timeout_s=20.0)
    trainee = Trainee(mesh, COARSE).train(NEW)
    disk = FaultyDisk(number, moment, kill_process) if mesh.world.rank == victim else None
    try:
        trainee.save(folder, disk=disk)
    except PeerLost as error:
        return str(error)
    return "saved"


@pytest.mark.parametrize(("victim", "number"), [(1, 1), (0, 3)], ids=["state-of-1", "manifest-of-0"])
def test_the_peer_of_a_killed_process_is_told_and_the_old_checkpoint_stays(pool: ProcessPool, tmp_path, victim, number):
    old = trained((1, 2), OLD, COARSE, save=tmp_path / "c")
    results = pool.run(2, saving_process, tmp_path / "c", victim, number, HALF_WAY, return_exceptions=True)
    assert isinstance(results[victim], WorkerDied)
    assert "another worker died or left" in results[1 - victim]
    holds(tmp_path / "c", old)
    takes_the_next_save(tmp_path / "c", trained((1, 2), NEW, COARSE))
