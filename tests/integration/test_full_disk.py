"""A disk that is full is one clear line and exit code 1, and nothing that was there is lost."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import datetime

import pytest

from adamesh.cli.main import main
from adamesh.data.corpus import load_corpus
from adamesh.data.vocabulary import Words
from adamesh.errors import DiskFull
from adamesh.train.config import RunConfig, load_config, write_config
from adamesh.train.events import Event, append_event, read_events
from adamesh.train.files import write_whole
from adamesh.train.folder import begin_run, reopen_run
from adamesh.train.progress import Silent
from tests.unit.train.test_trainer import SHORT, Disturbed, curve, trained, trainer

BLOCK = 4096


def fill(disk):
    """Take all room but a block's rest in files that are there already."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(BLOCK)):
                pass
        except OSError:
            return


def holding(disk, text):
    """A file, on a disk that has no more room."""
    (disk / "file").write_text(text)
    fill(disk)
    return disk / "file"


def one_line(capsys):
    err = capsys.readouterr().err
    assert err.startswith("adamesh: ")
    assert err.count("\n") == 1
    assert "the disk is full" in err
    return err


def test_a_text_that_has_no_room_leaves_the_old_one_and_nothing_beside_it(small_disk):
    file = holding(small_disk(64), "old")
    with pytest.raises(DiskFull, match="file: the disk is full; what was there before is kept; free space on it"):
        write_whole(file, "new" * BLOCK)
    assert file.read_text() == "old"
    assert sorted(path.name for path in file.parent.iterdir()) == ["file", "filler"]


def test_a_line_is_added_whole_or_not_at_all(small_disk):
    disk = small_disk(64)
    append_event(disk / "events.jsonl", Event(1, "resumed", "first"))
    fill(disk)
    with pytest.raises(DiskFull, match=r"events\.jsonl: the disk is full; all lines before this one are kept"):
        append_event(disk / "events.jsonl", Event(2, "resumed", "x" * 2 * BLOCK))
    append_event(disk / "events.jsonl", Event(3, "resumed", "fits into the block"))
    assert [event.step for event in read_events(disk / "events.jsonl")] == [1, 3]
    assert (disk / "events.jsonl").read_text().count("\n") == 2


def test_a_curve_that_has_no_room_stops_the_run_which_then_goes_on_as_if_nothing_had_happened(small_disk, tmp_path):
    disk = small_disk(256)
    config = replace(SHORT, steps=120, checkpoint_every=40, eval_every=40, keep_best=False)

    def fill_up(loss):
        fill(disk)
        return loss

    with pytest.raises(DiskFull, match=r"metrics\.jsonl: the disk is full") as caught:
        trained(disk / "run", config, task=Disturbed(42, fill_up))
    failed = int(caught.value.__notes__[0].removeprefix("in step "))
    assert [step for step, _ in curve(disk / "run")[0]] == list(range(1, failed))
    (disk / "filler").unlink()
    trained(disk / "run", config, resume=True)
    trained(tmp_path / "whole", config)
    assert curve(disk / "run") == curve(tmp_path / "whole")


def test_a_summary_that_has_no_room_is_written_when_the_run_is_resumed(small_disk):
    class Filling(Silent):
        def end(self):
            fill(disk)

    disk = small_disk(256)
    one = trainer(disk / "run")
    one._recorder._display = Filling()
    with pytest.raises(DiskFull, match=r"summary\.json"):
        one.train(resume=False)
    (disk / "filler").unlink()
    trained(disk / "run", resume=True)
    assert json.loads((disk / "run" / "summary.json").read_text())["steps"] == 25


def test_a_run_is_not_begun_on_a_full_disk_and_keeps_its_configuration(small_disk, capsys):
    disk = small_disk(128)
    folder = begin_run(RunConfig(task="regression", out=disk / "run"), 2, datetime(2025, 1, 31))
    fill(disk)
    before = load_config(folder / "config.toml")
    with pytest.raises(DiskFull):
        reopen_run(folder, 3, None)
    assert load_config(folder / "config.toml") == before
    assert main(["train", "--out", str(disk / "other")]) == 1
    one_line(capsys)
    assert not (disk / "other" / "config.toml").exists()


def test_a_cache_that_has_no_room_leaves_nothing_behind(small_disk, tmp_path, monkeypatch):
    disk = small_disk(64)
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
    text = tmp_path / "text.txt"
    text.write_text("".join(f" = Title {n} = \n" + f"the {n} dogs and a cat . \n" * 400 for n in range(20)))
    with pytest.raises(DiskFull, match="the disk is full; nothing was kept; XDG_CACHE_HOME says where"):
        load_corpus(text, Words, 300, least=100)
    assert [path.suffix for path in (disk / "adamesh").iterdir()] == [".lock"]
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(DiskFull, match="TMPDIR says where"):
        load_corpus(None, Words, 300, least=100)


@pytest.fixture
def run(tmp_path):
    trained(tmp_path / "run")
    write_config(SHORT, tmp_path / "run" / "config.toml")
    (tmp_path / "in.csv").write_text("1 2 3 4 5 6 7 8\n" * 400)
    return tmp_path / "run"


@pytest.mark.parametrize("command", ["predict", "export"])
def test_what_a_model_says_or_is_leaves_the_old_file_when_it_has_no_room(small_disk, run, capsys, command):
    out = holding(small_disk(64), "old")
    inputs = [str(run.parent / "in.csv")] if command == "predict" else []
    assert main([command, str(run), *inputs, "--out", str(out)]) == 1
    assert str(out) in one_line(capsys)
    assert out.read_text() == "old"
    assert sorted(path.name for path in out.parent.iterdir()) == ["file", "filler"]


def test_a_terminal_s_file_that_is_full_is_one_line_too(run, environment):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "adamesh.cli.main", "predict", str(run), str(run.parent / "in.csv")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr == "adamesh: [Errno 28] No space left on device\n"


FILLING = """
import os
from adamesh.tasks.regression import Regression

class Filling(Regression):
    name = "filling"
    summary = "fills the disk"
    calls = 0

    def loss(self, model, batch):
        self.calls += 1
        if self.calls == 5 and os.environ["RANK"] == "1":
            with open(os.environ["FILLER"], "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    pass
        return super().loss(model, batch)

del Regression
"""


@pytest.mark.soak
def test_workers_whose_logs_have_no_room_either_say_why_they_ended(small_disk, tmp_path, environment):
    disk = small_disk(512)
    (tmp_path / "filling.py").write_text(FILLING)
    command = [sys.executable, "-m", "adamesh.cli.main", "train", "filling.py", "--out", str(disk / "run")]
    environment = environment | {"FILLER": str(disk / "filler")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("adamesh: worker 0 failed at step ")
    assert "the disk is full; all lines before this one are kept" in done.stderr
    assert done.stderr.count("\n") == 1
