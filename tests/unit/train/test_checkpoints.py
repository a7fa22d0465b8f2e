import shutil
import time

import pytest
from torch import nn

import adamesh
from adamesh.errors import CheckpointError
from adamesh.train.checkpoints import CheckpointFolder, CheckpointId
from adamesh.train.workers import GroupWorkers

ALONE = GroupWorkers(0, 1, group=None)


class Saved:
    """A model, its optimizer, and a folder of their checkpoints."""

    def __init__(self, folder, keep=3, behind=False):
        self.model = nn.Linear(4, 3)
        self.optimizer = adamesh.AdamW(self.model.named_parameters())
        self.checkpoints = CheckpointFolder(folder, ALONE, keep, behind=behind)
        self.folder = folder

    def save(self, *steps):
        for step in steps:
            nn.init.constant_(self.model.bias, step)
            self.checkpoints.save(step, self.model, self.optimizer, {"at": step})
        self.checkpoints.finish()

    def load(self):
        return self.checkpoints.load_newest(self.model, self.optimizer)

    def names(self):
        return sorted(entry.name for entry in self.folder.iterdir() if entry.name != "names")


def damage(folder):
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[-3] ^= 1
    largest.write_bytes(content)


def test_the_newest_checkpoint_comes_back_whole(tmp_path):
    Saved(tmp_path / "c").save(5, 10)
    fresh = Saved(tmp_path / "c")
    loaded = fresh.load()
    assert (loaded.saved, loaded.extra["at"], loaded.damaged) == (CheckpointId(10), 10, [])
    assert fresh.model.bias.tolist() == [10, 10, 10]


def test_an_empty_folder_has_nothing_to_load(tmp_path):
    assert Saved(tmp_path / "c").load() is None


@pytest.mark.parametrize("behind", [False, True])
def test_only_the_newest_stay_and_latest_names_the_last(tmp_path, behind):
    saved = Saved(tmp_path / "c", keep=2, behind=behind)
    saved.save(1, 2, 3, 4)
    assert saved.names() == ["latest", "step-00000003", "step-00000004"]
    assert (tmp_path / "c" / "latest").read_text() == "step-00000004\n"


def test_behind_a_damaged_checkpoint_the_one_before_is_loaded_and_no_name_is_used_again(tmp_path):
    saved = Saved(tmp_path / "c")
    saved.save(5, 10)
    damage(tmp_path / "c" / "step-00000010")
    loaded = saved.load()
    assert loaded.saved == CheckpointId(5)
    assert len(loaded.damaged) == 1
    assert "step-00000010 cannot be loaded" in loaded.damaged[0]
    saved.save(10)
    assert saved.names() == ["damaged-step-00000010", "latest", "step-00000005", "step-00000010.1"]
    assert saved.load().saved == CheckpointId(10, 1)


def test_when_every_checkpoint_is_damaged_the_error_names_them_and_they_stay(tmp_path):
    saved = Saved(tmp_path / "c")
    saved.save(5, 10)
    for name in ("step-00000005", "step-00000010"):
        damage(tmp_path / "c" / name)
    with pytest.raises(CheckpointError, match="step-00000010, step-00000005"):
        saved.load()
    assert saved.names() == ["latest", "step-00000005", "step-00000010"]


def test_a_checkpoint_of_another_model_is_not_set_aside(tmp_path):
    saved = Saved(tmp_path / "c")
    saved.save(5)
    saved.model = nn.Linear(7, 2)
    saved.optimizer = adamesh.AdamW(saved.model.named_parameters())
    with pytest.raises(CheckpointError):
        saved.load()
    assert saved.names() == ["latest", "step-00000005"]


@pytest.mark.parametrize("latest", ["", "nonsense", None])
def test_a_lost_latest_file_loses_no_checkpoint(tmp_path, latest):
    saved = Saved(tmp_path / "c")
    saved.save(5, 10)
    (tmp_path / "c" / "latest").unlink()
    if latest is not None:
        (tmp_path / "c" / "latest").write_text(latest)
    assert saved.load().saved == CheckpointId(10)


def test_what_was_never_finished_is_no_checkpoint_and_goes_with_the_next(tmp_path):
    saved = Saved(tmp_path / "c")
    (tmp_path / "c" / "step-00000003").mkdir()
    assert saved.load() is None
    saved.save(5)
    for name in ("step-00000010", "deleted-step-00000001", "step-7", "other"):
        (tmp_path / "c" / name).mkdir()
    assert saved.checkpoints.candidates() == [CheckpointId(5)]
    saved.save(10)
    assert saved.names() == ["latest", "other", "step-00000005", "step-00000010.1", "step-7"]


def test_ids_sort_by_step_then_attempt_and_survive_their_names():
    ids = [CheckpointId(2), CheckpointId(2, 1), CheckpointId(10), CheckpointId(123456789, 12)]
    assert sorted(ids) == ids
    assert [CheckpointId.parse(one.name) for one in ids] == ids


def test_what_is_complete_is_found_though_the_process_died_before_it_named_it_the_latest(tmp_path):
    saved = Saved(tmp_path / "c")
    saved.save(5, 10)
    (tmp_path / "c" / "latest").write_text("step-00000005\n")
    assert saved.load().saved == CheckpointId(10)


def test_a_name_is_not_used_again_when_its_checkpoint_is_gone(tmp_path):
    saved = Saved(tmp_path / "c", keep=1)
    saved.save(5, 10, 5)
    assert saved.names() == ["latest", "step-00000010"]
    saved.save(20)
    saved.save(5, 10)
    saved.save(20)
    assert saved.names() == ["latest", "step-00000020.1"]


@pytest.mark.parametrize("behind", [False, True])
def test_a_save_that_fails_is_told_leaves_no_remains_and_the_next_one_is_whole(tmp_path, small_disk, behind):
    disk = small_disk(64)
    saved = Saved(disk / "c", behind=behind)
    saved.save(5)
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
    with pytest.raises(CheckpointError, match="No space left on device"):
        saved.save(10)
    assert saved.names() == ["latest", "step-00000005"]
    assert saved.load().saved == CheckpointId(5)
    (disk / "filler").unlink()
    saved.save(15)
    assert saved.load().saved == CheckpointId(15)


def test_a_failure_behind_training_is_told_with_the_next_save_once(tmp_path, small_disk):
    disk = small_disk(64)
    saved = Saved(disk / "c", behind=True)
    saved.save(5)
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 4096))
    saved.checkpoints.save(10, saved.model, saved.optimizer, {})
    assert saved.checkpoints._saver is not None
    while saved.checkpoints._saver.busy:
        time.sleep(0.01)
    (disk / "filler").unlink()
    saved.save(15)
    [line] = saved.checkpoints.failures()
    assert "step-00000010 could not be written" in line
    assert saved.checkpoints.failures() == []
    assert saved.load().saved == CheckpointId(15)
