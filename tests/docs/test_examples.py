"""The programs in examples/ run, and learn."""

import json
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adamesh.errors import DataError
from adamesh.tasks.catalog import find_task

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loss_in(text: str) -> float:
    return float(re.fullmatch(r"test loss ([\d.]+)\n", text).group(1))  # type: ignore[union-attr]


def test_every_example_is_linked_from_the_readme() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    for program in EXAMPLES.glob("*.py"):
        assert f"](examples/{program.name})" in readme


def test_the_plain_loop_learns_alone(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "plain_loop.py"), run_name="__main__")
    assert loss_in(capsys.readouterr().out) < 0.01


def test_the_plain_loop_learns_on_two_workers(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    assert loss_in(run(tmp_path, *launcher, str(EXAMPLES / "plain_loop.py"))) < 0.01


def test_the_elastic_loop_learns_alone_and_leaves_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADAMESH_TOKEN", "secret")
    monkeypatch.setattr(sys, "argv", ["elastic_loop.py", str(tmp_path)])
    handler = signal.getsignal(signal.SIGTERM)
    runpy.run_path(str(EXAMPLES / "elastic_loop.py"), run_name="__main__")
    signal.signal(signal.SIGTERM, handler)
    assert loss_in(capsys.readouterr().out) < 0.05
    assert (tmp_path / "checkpoint" / "manifest.json").is_file()


def test_the_task_of_one_s_own_trains(tmp_path: Path) -> None:
    options = ["--nproc", "1", "--epochs", "4", "--out", "run"]
    out = run(tmp_path, "-m", "adamesh", "train", str(EXAMPLES / "my_task.py"), *options)
    assert "generated: 2,000 rows" in out
    curve = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["eval_loss"] for record in curve if "eval_loss" in record]
    assert losses[-1] < losses[0]


def test_the_task_of_one_s_own_reads_a_table_and_is_sized_by_it(tmp_path: Path) -> None:
    task, table = find_task(str(EXAMPLES / "my_task.py")), tmp_path / "table.csv"
    table.write_text("".join(f"{row},{row % 5},{row % 7},{-row}\n" for row in range(50)))
    splits = task.load_data(table, seed=0)
    batch = splits.train.batch(torch.tensor([0, 3]))
    assert batch[1].tolist() == [[-10], [-13]]
    assert task.loss(task.build_model(), batch).shape == ()


@pytest.mark.parametrize("text", ["1,2\n3,x\n", "1,2\n3\n", "1\n" * 9, ""])
def test_the_task_of_one_s_own_refuses_what_is_no_table_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(DataError, match=r"table\.csv: ") as caught:
        find_task(str(EXAMPLES / "my_task.py")).load_data(tmp_path / "table.csv", seed=0)
    assert "\n" not in str(caught.value)
