"""The commands themselves, with workers that really train."""

import json
import signal
import time

import pytest

_NOISE = """
import torch
from adamesh.data.split import TensorSplit
from adamesh.tasks import digits
from adamesh.tasks.base import Splits

class Noise(digits.Digits):
    name = "noise"
    summary = "handwritten digits with random labels"

    def load_data(self, data, seed):
        found = super().load_data(data, seed)
        draw = torch.Generator().manual_seed(seed)
        parts = []
        for part in (found.train, found.test):
            images, labels = part.batch(torch.arange(len(part)))
            parts.append(TensorSplit(images, torch.randint(10, labels.shape, generator=draw)))
        return Splits(parts[0], parts[1], "digits with random labels")
"""


def test_find_lr_suggests_a_rate_and_the_command_that_takes_it(run, tmp_path):
    code, out, err = run(
        "find-lr", "mlp", "--nproc", "2", "--lowest", "1e-3", "--steps-per-decade", "20", "--out", "lr"
    )
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "lr" / "find-lr.json").read_text())
    assert 3e-3 <= found["lr"] <= 3e-2
    assert f"next: adamesh train mlp --nproc 2 --optim.lr {found['lr']:g}" in out
    assert found["command"] in out
    assert not (tmp_path / "lr" / "checkpoints").exists()


@pytest.mark.soak
@pytest.mark.parametrize("task", ["digits", "mlp"])
def test_find_lr_has_the_same_answer_on_one_and_on_three_workers(run, tmp_path, task):
    found = []
    for nproc in ("1", "3"):
        code, _, err = run("find-lr", task, "--nproc", nproc, "--out", nproc)
        assert (code, err) == (0, "")
        found.append(json.loads((tmp_path / nproc / "find-lr.json").read_text())["lr"])
    assert found[0] == found[1]
    assert found[0] is not None


@pytest.mark.soak
def test_find_lr_is_unsure_about_random_labels(run, tmp_path):
    (tmp_path / "noise.py").write_text(_NOISE)
    code, out, err = run("find-lr", "noise.py", "--nproc", "1", "--seeds", "3", "--out", "lr")
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "lr" / "find-lr.json").read_text())["lr"] is None
    assert "unsure: " in out


@pytest.mark.soak
def test_a_sweep_that_was_killed_repeats_what_ran_and_goes_on(start, run, mine, tmp_path):
    ask = [
        "sweep",
        mine,
        "--search",
        "optim.lr=1e-3..1e-2:log",
        "--trials",
        "2",
        "--steps",
        "12",
        "--nproc",
        "1",
        "--jobs",
        "1",
    ]
    ask += ["--out", "swept"]
    process = start(*ask, SLOW_S="0.2")
    until_s = time.monotonic() + 60
    while not (tmp_path / "swept" / "trials" / "0000" / "metrics.jsonl").exists():
        assert time.monotonic() < until_s
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    code, out, err = run(*ask)
    assert (code, err) == (0, "")
    assert "1 that were cut short" in out
    assert "resumed: from step-" in (tmp_path / "swept" / "trials" / "0000" / "output.log").read_text()
    record = json.loads((tmp_path / "swept" / "sweep.json").read_text())
    assert [trial["number"] for trial in record["trials"]] == [1, 2]
    assert (tmp_path / "swept" / "sweep-slice.png").stat().st_size > 1000
