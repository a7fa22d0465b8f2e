"""Real runs of the command with real worker processes: what they leave, how they end, how they go on."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

from adamesh.cli.main import main
from adamesh.data.ledger import expected
from adamesh.data.sampler import GlobalSampler
from adamesh.train.config import load_config
from tests.unit.data.cifar_archives import archive


def metrics(folder):
    """The run's curve."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(folder):
    """The steps in the run's curve, in order."""
    return [record["step"] for record in metrics(folder) if "loss" in record]


def summary(folder):
    """The run's end."""
    return json.loads((folder / "summary.json").read_text())


def await_step(process, folder, patience_s=60):
    """Wait until the first worker has taken a step."""
    until_s = time.monotonic() + patience_s
    while not ((folder / "metrics.jsonl").exists() and steps(folder)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s, "no step was taken"
        time.sleep(0.05)


def test_a_run_leaves_its_folder(run, tmp_path, monkeypatch, capsys):
    code, out, err = run("train", "--steps", "4", "--out", "mine", "--optim.lr", "0.002")
    assert (code, err) == (0, "")
    assert "samples/s" in out
    folder = tmp_path / "mine"
    assert load_config(folder / "config.toml").optim.lr == 0.002
    assert steps(folder) == [1, 2, 3, 4]
    assert {"lr", "grad_norm", "step_s", "comm_exposed_s", "bytes_up", "bytes_down"} <= set(metrics(folder)[0])
    assert (summary(folder)["task"], summary(folder)["world_size"], summary(folder)["steps"]) == ("digits", 2, 4)
    assert list((folder / "checkpoints").iterdir())
    assert {"worker0.log", "worker1.log"} <= {file.name for file in (folder / "logs" / "1").iterdir()}

    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out", "mine"]) == 2
    assert "adamesh resume mine" in capsys.readouterr().err


def test_an_error_in_a_worker_is_one_line_with_rank_step_error_and_place(run, mine):
    code, _, err = run("train", mine, "--out", "run", FAIL_RANK="1", FAIL_BY="error")
    assert code == 1
    assert re.fullmatch(
        r"adamesh: worker 1 failed at step \d: ValueError: the label 11 is out of range \(mine\.py:16\)\. "
        r"Full log: run/logs/1/worker1\.log\n",
        err,
    )


def test_a_worker_that_is_killed_is_named_with_the_signal(run, mine, tmp_path):
    code, _, err = run("train", mine, "--out", "run", FAIL_RANK="0", FAIL_BY="SIGKILL")
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("adamesh: worker 0 was killed (SIGKILL): ")
    assert err.endswith(" Full log: run/logs/1/worker0.log\n")
    # The other one kept what it knew.
    assert "PeerLost" in (tmp_path / "run" / "logs" / "1" / "worker1.log").read_text()


def test_wrong_data_found_by_the_workers_is_a_configuration_error_without_traceback(run):
    code, _, err = run("train", "regression", "--data", "numbers.csv", "--nproc", "1")
    assert code == 2
    assert err.startswith("adamesh: data = ")
    assert (err.count("\n"), "worker" in err) == (1, False)


def test_code_in_an_archive_is_refused_in_one_line_and_not_run(run, tmp_path):
    trap = b"\x80\x02cposix\nsystem\n(X\x0b\x00\x00\x00touch evil1tR."
    archive(tmp_path / "cifar.tar.gz", {"data_batch_1": trap})
    code, _, err = run("train", "cifar10-cnn", "--data", "cifar.tar.gz", "--nproc", "1")
    assert code == 2
    assert err.startswith("adamesh: ")
    assert "data_batch_1: asks for posix.system" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "evil1").exists()


def test_ctrl_c_saves_and_other_workers_go_on(start, run, mine, tmp_path):
    folder = tmp_path / "run"
    process = start("train", mine, "--out", "run", SLOW_S="0.2")
    await_step(process, folder)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "adamesh: stopping after this step and saving; Ctrl-C again quits at once\n"
    done = summary(folder)["steps"]
    assert (summary(folder)["stopped"], steps(folder)) == ("interrupted", list(range(1, done + 1)))

    code, _, err = run("resume", "run", "--nproc", "3", "--steps", str(done + 2))
    assert (code, err) == (0, "")
    assert steps(folder) == list(range(1, done + 3))
    assert (summary(folder)["stopped"], summary(folder)["world_size"]) == ("finished", 3)
    assert (folder / "logs" / "2").is_dir()


@pytest.mark.soak
def test_sigterm_saves_too(start, mine, tmp_path):
    process = start("train", mine, "--out", "run", "--nproc", "1", SLOW_S="0.2")
    await_step(process, tmp_path / "run")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert summary(tmp_path / "run")["stopped"] == "interrupted"


@pytest.mark.soak
def test_a_second_ctrl_c_quits_at_once(start, mine, tmp_path):
    process = start("train", mine, "--out", "run", "--nproc", "1", SLOW_S="0.2")
    await_step(process, tmp_path / "run")
    process.send_signal(signal.SIGSTOP)  # so that both arrive before the workers are done
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("adamesh: stopped at once; to go on")


def test_under_torchrun_the_workers_are_its_own_and_share_one_folder(environment, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "adamesh.cli.main"]
    environment = environment | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, "train", "regression", "--steps", "3"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=100)
    (folder,) = (tmp_path / "runs").iterdir()
    assert (summary(folder)["world_size"], steps(folder)) == (2, [1, 2, 3])


COUNTING = """
import os, signal
from pathlib import Path

import torch
from torch import nn

from adamesh.data.split import TensorSplit
from adamesh.tasks.base import Splits, Task, TaskDefaults

class Counting(Task):
    name = "counting"
    summary = "notes the number of every sample that it sees"
    defaults = TaskDefaults(batch_size=10, epochs=2, lr=1e-3)
    calls = 0

    def build_model(self):
        return nn.Linear(1, 1)

    def load_data(self, data, seed):
        numbers = torch.arange(45.0).reshape(-1, 1)
        return Splits(TensorSplit(numbers, numbers), TensorSplit(numbers, numbers), "generated: 45 numbers")

    def loss(self, model, batch):
        inputs, targets = batch
        self.calls += 1
        if os.environ.get("KILL_AT") == str(self.calls) and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        with Path(os.environ["SEEN"]).open("a") as file:
            file.write("".join(f"{self.calls} {number:g}\\n" for number in inputs.flatten().tolist()))
        return (model(inputs / 45) - targets / 45).square().mean()

    def metrics(self, model, batch):
        inputs, targets = batch
        return {"loss": (model(inputs / 45) - targets / 45).square().sum()}
"""


def test_a_killed_run_goes_on_with_other_workers_and_no_sample_is_lost_or_seen_twice(run, tmp_path):
    (tmp_path / "counting.py").write_text(COUNTING)

    def seen(name):
        lines = (line.split() for line in (tmp_path / name).read_text().splitlines())
        return [(int(call), int(number)) for call, number in lines]

    code, _, err = run("train", "counting.py", "--out", "whole", "--nproc", "1", SEEN="whole.txt")
    assert (code, err) == (0, "")
    killed = {"SEEN": "before.txt", "KILL_AT": "8"}
    waits = ["--checkpoint-every", "3", "--no-checkpoint-async"]
    assert run("train", "counting.py", "--out", "run", *waits, **killed)[0] == 1
    assert run("resume", "run", "--nproc", "3", SEEN="after.txt")[0] == 0
    # Step 6 was saved; 7, and 8 where it was taken, are taken again.
    before = [(call, number) for call, number in seen("before.txt") if call <= 6]
    after = [(call + 6, number) for call, number in seen("after.txt")]
    assert sorted(before + after) == sorted(seen("whole.txt"))
    numbers = sorted(number for _, number in before + after)
    assert numbers == sorted([*range(45), *range(45)])
    ledgers = [summary(tmp_path / run)["ledger"] for run in ("whole", "run")]
    assert ledgers == [expected(GlobalSampler(45, 10, 0), 10).saved()] * 2
    losses = [[line["loss"] for line in metrics(tmp_path / run) if "loss" in line] for run in ("whole", "run")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--optim.weight-decy", "1"], "the nearest known is --optim.weight-decay"),
        (["--optim.lr", "-0.1"], "optim.lr = -0.1"),
        (["--batch-size", "1"], "batch_size = 1"),
        (["--out", "file/run"], "choose another folder with --out"),
        (["bad.toml"], "unknown key schedule.kid; the nearest known key is schedule.kind"),
    ],
)
def test_what_is_asked_for_wrongly_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "bad.toml").write_text('[schedule]\nkid = "cosine"\n')
    assert main(["train", *arguments]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
