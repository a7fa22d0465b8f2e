"""A save behind training: what it holds, and what is left when it is cut short anywhere."""

import errno
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import adamesh
from adamesh.checkpoint.manifest import MANIFEST, read_manifest
from adamesh.comm.base import Mesh
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.threads import Kill, ThreadWorld
from adamesh.errors import CheckpointError, PeerLost
from tests.checkpoint.faulty_disk import AFTER, HALF_WAY, MOMENTS, FaultyDisk, Killed, kill_thread
from tests.checkpoint.test_cut_short import COARSE, NEW, OLD, holds, takes_the_next_save
from tests.checkpoint.trainee import Snapshot, Trainee, Whole, trained, whole
from tests.thorough import THOROUGH, some


class SlowDisk(FaultyDisk):
    """Writes no tensors before it is told to."""

    def __init__(self) -> None:
        super().__init__(None)
        self.go = threading.Event()

    def write_tensors(self, path, tensors):
        assert self.go.wait(30)
        super().write_tensors(path, tensors)


def save_behind(folder: Path, disks: dict[int, FaultyDisk]) -> list[Any]:
    """Two workers save behind training, and wait for it; returns what each raised, or None."""
    savers = []

    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh, COARSE).train(NEW)
        saver = adamesh.Saver(trainee.model, trainee.optimizer, disks[mesh.world.rank])
        savers.append(saver)
        saver.save(folder)
        saver.wait()

    raised = ThreadWorld(1, 2).run(live, return_exceptions=True)
    for saver in savers:
        if saver._writing is not None:
            saver._writing.leave(0.0)
    return raised


def test_training_goes_on_while_a_save_is_written_and_what_is_saved_is_from_before(tmp_path):
    disks = {rank: SlowDisk() for rank in range(3)}

    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh).train(range(3))
        saver = adamesh.Saver(trainee.model, trainee.optimizer, disks[mesh.world.rank])
        saver.save(tmp_path / "c", at=3)
        trainee.train(range(3, 6))
        assert saver.busy
        disks[mesh.world.rank].go.set()
        saver.wait()
        assert not saver.busy

    ThreadWorld(1, 3).run(live)
    assert trained((1, 2), range(0), load=tmp_path / "c") == trained((1, 3), range(3))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2)], ids=["1", "2x2"])
def test_a_save_behind_training_leaves_the_same_files_as_one_that_training_waits_for(tmp_path, shape):
    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh)
        with adamesh.Saver(trainee.model, trainee.optimizer) as saver:
            for step in range(3):
                trainee.train(range(step, step + 1))
                saver.save(tmp_path / "behind", at=step)
        for _ in range(3):
            trainee.save(tmp_path / "before", at=2)

    ThreadWorld(*shape).run(live)
    assert read_manifest(tmp_path / "behind") == read_manifest(tmp_path / "before")
    names = [sorted(file.name for file in (tmp_path / name).iterdir()) for name in ("behind", "before")]
    assert names[0] == names[1]


def test_the_second_snapshot_is_taken_into_the_memory_of_the_first(tmp_path):
    alone = LocalCommunicator()
    trainee = Trainee(Mesh(alone, alone, alone)).train(range(1))
    saver = adamesh.Saver(trainee.model, trainee.optimizer)
    places = []
    for _ in range(2):
        saver.save(tmp_path / "c")
        places.append({key: t.data_ptr() for file in saver._snapshot.files.values() for key, t in file.items()})
    saver.wait()
    assert places[0] == places[1]


@pytest.mark.parametrize("before", ["nothing", "old", "remains"])
def test_a_worker_killed_at_any_operation_behind_training_leaves_the_old_or_the_new_checkpoint(tmp_path, before):
    new, old, scene = trained((1, 2), NEW, COARSE), None, tmp_path / "scene"
    if before != "nothing":
        old = trained((1, 3), OLD, COARSE, save=scene)
    if before == "remains":
        save_behind(scene, {0: FaultyDisk(3, HALF_WAY, kill_thread), 1: FaultyDisk(None)})
    counting = {rank: FaultyDisk(None) for rank in range(2)}
    if old is not None:
        shutil.copytree(scene, tmp_path / "counted")
    assert save_behind(tmp_path / "counted", counting) == [None, None]
    seen = {"old": 0, "new": 0}
    cases = [
        (r, n, m)
        for r in range(2)
        for n in range(len(counting[r].operations))
        for m in (MOMENTS if before == "old" else (HALF_WAY,))
    ]
    for rank, number, moment in some(cases, 10):
        folder = tmp_path / f"{rank}-{number}-{moment}"
        if old is not None:
            shutil.copytree(scene, folder)
        disks = {rank: FaultyDisk(number, moment, kill_thread), 1 - rank: FaultyDisk(None)}
        raised = save_behind(folder, disks)
        assert isinstance(raised[rank], Killed)
        assert isinstance(raised[1 - rank], PeerLost)
        # Worker 1 is done with its part when its record has got its name; worker 0 with the manifest's.
        done = counting[rank].operations[: number + (moment == AFTER)]
        finished = "replace" in done or (moment == HALF_WAY and counting[rank].operations[number] == "replace")
        holds(folder, new if finished else old)
        seen["new" if finished else "old"] += 1
        if moment == HALF_WAY and number % 3 == 0:
            takes_the_next_save(folder, new)
    assert min(seen.values()) >= 1


def disk_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_behind_training_is_raised_by_the_next_call_on_both_workers_and_then_no_more(tmp_path):
    old = trained((1, 2), OLD, COARSE, save=tmp_path / "c")

    def live(mesh: Mesh) -> list[str]:
        trainee = Trainee(mesh, COARSE).train(NEW)
        disk = FaultyDisk(0, HALF_WAY, disk_full) if mesh.world.rank == 1 else FaultyDisk(None)
        saver = adamesh.Saver(trainee.model, trainee.optimizer, disk)
        saver.save(tmp_path / "c")
        with pytest.raises(CheckpointError) as caught:
            saver.save(tmp_path / "c")
        mesh.world.exchange(b"both")
        assert trained((1, 1), range(0), COARSE, load=tmp_path / "c") == old
        mesh.world.exchange(b"looked")
        saver.save(tmp_path / "c")
        saver.wait()
        return [str(caught.value)]

    [[first], [second]] = ThreadWorld(1, 2).run(live)
    assert first == f"on worker 1: {second}"
    assert "No space left on device" in second
    holds(tmp_path / "c", trained((1, 2), NEW, COARSE))


def test_a_save_that_another_one_to_its_folder_overtakes_is_given_up_and_says_so(tmp_path):
    alone = LocalCommunicator()
    trainee = Trainee(Mesh(alone, alone, alone), COARSE).train(OLD)
    disk = SlowDisk()
    saver = adamesh.Saver(trainee.model, trainee.optimizer, disk)
    saver.save(tmp_path / "c")
    trainee.train(range(1, 2)).save(tmp_path / "c")
    disk.go.set()
    with pytest.raises(CheckpointError, match=r"a newer save to .* has begun \(number 2\).* is given up"):
        saver.wait()
    holds(tmp_path / "c", trained((1, 1), NEW, COARSE))
    takes_the_next_save(tmp_path / "c", trained((1, 2), NEW, COARSE))


def test_extra_and_hyper_parameters_are_those_of_the_moment_of_the_save(tmp_path):
    alone = LocalCommunicator()
    trainee = Trainee(Mesh(alone, alone, alone)).train(range(1))
    disk, seen = SlowDisk(), [1]
    saver = adamesh.Saver(trainee.model, trainee.optimizer, disk)
    saver.save(tmp_path / "c", seen=seen)
    seen.append(2)
    trainee.optimizer.param_groups[0]["lr"] = 5.0
    disk.go.set()
    saver.wait()
    manifest = read_manifest(tmp_path / "c")
    assert (manifest.extra["seen"], manifest.param_groups[0]["lr"]) == ([1], 1e-2)


@pytest.mark.parametrize("lost", range(3))
def test_a_save_whose_worker_was_lost_is_never_complete_and_those_left_are_told_and_save_again(tmp_path, lost):
    """The lost one had not written its share, or it was the one to complete the checkpoint."""
    trained((1, 3), OLD, COARSE, save=tmp_path / "c")
    disks = {rank: SlowDisk() for rank in range(3)}
    savers: dict[int, adamesh.Saver] = {}

    def begin(mesh: Mesh) -> None:
        trainee = Trainee(mesh, COARSE).train(NEW)
        savers[mesh.world.rank] = adamesh.Saver(trainee.model, trainee.optimizer, disks[mesh.world.rank])
        savers[mesh.world.rank].save(tmp_path / "c")
        if mesh.world.rank == lost:
            raise Killed
        disks[mesh.world.rank].go.set()
        with pytest.raises(PeerLost):
            savers[mesh.world.rank].wait()

    def go_on(mesh: Mesh) -> str:
        trainee = Trainee(mesh, COARSE).train(NEW)
        left = [rank for rank in range(3) if rank != lost]
        # A newcomer is the third of them, and has begun nothing.
        saver = adamesh.Saver(trainee.model, trainee.optimizer, FaultyDisk(None))
        if mesh.world.rank < 2:
            saver._writing = savers[left[mesh.world.rank]]._writing
        with pytest.raises(CheckpointError) as caught:
            saver.wait()
        saver.save(tmp_path / "c")
        saver.wait()
        return str(caught.value)

    ThreadWorld(1, 3).run(begin, return_exceptions=True)
    said = ThreadWorld(1, 3).run(go_on)
    assert all(f"worker {lost} was lost" in text or "is gone" in text for text in said), said
    disks[lost].go.set()
    late = savers[lost]._writing
    assert late is not None
    late.leave(0.0)  # it was not dead: what it writes now goes under numbers of its own
    holds(tmp_path / "c", trained((1, 3), NEW, COARSE))


def test_workers_lost_at_any_message_of_a_save_behind_training_leave_the_old_or_the_new_checkpoint(tmp_path):
    new = trained((1, 2), NEW, COARSE)
    old = trained((1, 2), OLD, COARSE, save=tmp_path / "old")

    def live(mesh: Mesh, folder: Path) -> int:
        trainee = Trainee(mesh, COARSE).train(NEW)
        before = world.num_operations[mesh.world.rank]
        saver = adamesh.Saver(trainee.model, trainee.optimizer, FaultyDisk(None))
        try:
            saver.save(folder)
            saver.wait()
        finally:
            saver.close()
        return before

    world = ThreadWorld(1, 2)
    [begin, _], end = world.run(live, tmp_path / "counted"), world.num_operations[0]
    for fault in some([Kill(rank, message) for rank in range(2) for message in range(begin, end)], 6):
        folder = tmp_path / f"{fault}"
        shutil.copytree(tmp_path / "old", folder)
        world = ThreadWorld(1, 2, [fault])
        raised = world.run(live, folder, return_exceptions=True)
        assert isinstance(raised[1 - fault.rank], PeerLost)
        found = trained((1, 1), range(0), COARSE, load=folder)
        assert found in (old, new)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_snapshots_of_a_gpu_are_in_pinned_memory(tmp_path):
    from adamesh.checkpoint.snapshot import Snapshot

    snapshot = Snapshot()
    snapshot.put("model-x", {"a": torch.arange(3.0, device="cuda")})
    snapshot.finish()
    assert snapshot.files["model-x"]["a"].is_pinned()
    assert snapshot.files["model-x"]["a"].tolist() == [0, 1, 2]


def test_a_training_killed_at_a_random_moment_leaves_a_checkpoint_of_one_step_or_none(tmp_path):
    """Real kills of trainings that save all the time, in folders that the killed one before has left."""
    kills = 20 if THOROUGH else 5
    command = [sys.executable, "-m", "tests.checkpoint.killed_trainee", str(tmp_path), str(kills)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=100)
    manifests = {}
    for number in range(kills):
        folder = tmp_path / str(number)
        if (folder / MANIFEST).exists():
            manifests[folder] = read_manifest(folder)
        else:
            holds(folder, None)
    assert len(manifests) >= kills // 5
    path = every_step(max(manifest.extra["steps"] for manifest in manifests.values()))
    for folder, manifest in manifests.items():
        assert trained((1, 1), range(0), COARSE, load=folder) == path[manifest.extra["steps"]]


def every_step(steps: int) -> list[Whole]:
    """What two workers hold before the first step, and after each."""

    def live(mesh: Mesh) -> list[Snapshot]:
        trainee = Trainee(mesh, COARSE)
        return [trainee.train(range(max(at - 1, 0), at)).snapshot() for at in range(steps + 1)]

    return [whole(snapshots) for snapshots in zip(*ThreadWorld(1, 2).run(live), strict=True)]


@pytest.mark.parametrize("completed", [True, False], ids=["completed before", "never completed"])
def test_who_is_left_knows_whether_the_worker_that_is_gone_had_completed_the_save(tmp_path, completed):
    savers: dict[int, Any] = {}
    folder, slow = tmp_path / "c", SlowDisk()
    disks = {0: FaultyDisk(None) if completed else slow, 1: FaultyDisk(None)}

    def live(mesh: Mesh) -> None:
        trainee = Trainee(mesh, COARSE).train(NEW)
        savers[mesh.world.rank] = saver = adamesh.Saver(trainee.model, trainee.optimizer, disks[mesh.world.rank])
        saver.save(folder)

    ThreadWorld(1, 2).run(live)
    left = savers[1]
    if completed:
        left._writing.wait_written()  # concluding tells the first worker that no more records will come
        assert savers[0]._writing.conclude({}) is None
    alone = LocalCommunicator()
    left._optimizer = SimpleNamespace(mesh=Mesh(alone, alone, alone))
    if completed:
        left.wait()
    else:
        with pytest.raises(CheckpointError, match="never complete: the worker that was to complete it is gone"):
            left.wait()
        slow.go.set()
