"""What somebody new meets: a fresh clone, `make train`, and a model of their own, as the documentation says it.

    python -m scripts.newcomer

Plays README.md's `make train` and every block of docs/own-model.md in a temporary clone of what is committed, and
prints how long it took. Downloads come from wherever pip is told to take them.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.blocks import ROOT, blocks

MOST_S = {"a trained model": 180.0, "their own model on two workers": 600.0}
FIRST = "make train"


def main() -> int:
    """Returns 0 if everything worked, in time."""
    with tempfile.TemporaryDirectory(prefix="adamesh-newcomer-") as folder:
        clone = Path(folder) / "adamesh"
        began = time.monotonic()
        run(f"git clone --quiet {ROOT} {clone}", Path(folder))
        assert any(FIRST in block.text for block in blocks(clone / "README.md")), f"README.md has no {FIRST}"
        run(FIRST, clone)
        took = {"a trained model": time.monotonic() - began}
        run("\n".join(script(clone / "docs" / "own-model.md", clone)), clone)
        took["their own model on two workers"] = time.monotonic() - began
    for what, seconds in took.items():
        print(f"{what}: {seconds:.0f} s after git clone began, {MOST_S[what]:.0f} s are allowed")
    return 0 if all(seconds <= MOST_S[what] for what, seconds in took.items()) else 1


def script(page: Path, folder: Path) -> Iterator[str]:
    """The page's commands for one shell; its files are saved in the folder."""
    yield "set -e"
    for block in blocks(page):
        if block.saved_as is not None:
            (folder / block.saved_as).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            yield block.text


def run(commands: str, folder: Path) -> None:
    """In a shell, as a reader types them; ends the program where one fails."""
    for line in commands.strip().splitlines():
        print(f"$ {line}", flush=True)
    subprocess.run(["bash", "-c", commands], cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main())
