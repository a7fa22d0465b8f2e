"""The programs in examples/ run, and learn."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def test_every_example_is_linked_from_the_readme() -> None:
    readme = (EXAMPLES.parent / "README.md").read_text()
    for program in EXAMPLES.glob("*.py"):
        assert f"](examples/{program.name})" in readme


@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["alone", "two"])
def test_the_plain_loop_learns_alone_and_on_two_workers(tmp_path: Path, launcher: list[str]) -> None:
    done = run(tmp_path, *launcher, str(EXAMPLES / "plain_loop.py"))
    assert done.returncode == 0, done.stderr
    assert float(re.fullmatch(r"test loss ([\d.]+)\n", done.stdout).group(1)) < 0.01  # type: ignore[union-attr]


@pytest.mark.parametrize("own_data", [False, True], ids=["generated", "own"])
def test_the_task_of_one_s_own_trains(tmp_path: Path, own_data: bool) -> None:
    (tmp_path / "table.csv").write_text("".join(f"{i % 17},{i % 5},{i % 17 - i % 5}\n" for i in range(200)))
    data = ["--data", "table.csv"] if own_data else []
    options = ["--nproc", "1", "--epochs", "4", "--out", "run", *data]
    done = run(tmp_path, "-m", "adamesh", "train", str(EXAMPLES / "my_task.py"), *options)
    assert done.returncode == 0, done.stderr
    assert ("real, from" if own_data else "generated: 2,000 rows") in done.stdout
    curve = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["eval_loss"] for record in curve if "eval_loss" in record]
    assert losses[-1] < losses[0]


def test_its_data_error_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("1,2\n3,x\n")
    done = run(tmp_path, "-m", "adamesh", "train", str(EXAMPLES / "my_task.py"), "--data", "table.csv", "--nproc", "1")
    assert done.returncode == 2
    assert re.fullmatch(r"adamesh: .*table\.csv: is no table of numbers: .*'x'\n", done.stderr)
