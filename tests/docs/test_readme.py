"""What the README shows, runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.blocks import ROOT, blocks, pages


def python_blocks() -> list[str]:
    return [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]


@pytest.mark.parametrize("number", range(len(python_blocks())))
@pytest.mark.parametrize(
    "launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node", "2"]], ids=["alone", "two"]
)
def test_every_python_block_runs_alone_and_on_two_workers(tmp_path: Path, number: int, launcher: list[str]) -> None:
    program = tmp_path / "train_me.py"
    program.write_text(python_blocks()[number])
    done = subprocess.run(
        [sys.executable, *launcher, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loss = float(re.search(r"loss ([\d.]+),", done.stdout).group(1))  # type: ignore[union-attr]
    assert loss < 0.1, "the program is meant to learn"


@pytest.mark.parametrize("page", pages(), ids=[str(page.relative_to(ROOT)) for page in pages()])
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
