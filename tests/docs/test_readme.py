"""What the README shows, runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


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


@pytest.mark.parametrize("page", ["elastic.md", "guard.md", "sparse.md"])
def test_the_first_block_of_a_page_runs(page: str) -> None:
    page = (README.parent / "docs" / page).read_text()
    exec(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)[0], {})


PAGES = ("compare", "doctor", "elastic", "guard", "multi-machine", "sparse", "tour", "training")


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}.md" for name in PAGES)])
def test_relative_links_lead_somewhere(page: str) -> None:
    file = README.parent / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
        assert (file.parent / target).exists(), target
