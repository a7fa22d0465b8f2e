"""The fenced blocks of a documentation page: what there is to run, in the order in which a reader runs it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks", "commands", "pages"]

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)
_SAVED = re.compile(r"(?:Save as|存为) `(?P<name>[\w.]+)`[^`]*\Z")
# An explanation stands behind a command, after spaces or a sharp.
_EXPLAINED = re.compile(r"\s+#.*|\s{2,}.*")


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    """python, bash, text, ... or nothing."""
    text: str
    saved_as: str | None
    """The file that the sentence before it, "Save as `NAME`", puts it in."""


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and all that lies in docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        saved = _SAVED.search(text[: found.start()].rpartition("```")[2].strip())
        yield Block(found["language"], found["text"], None if saved is None else saved["name"])


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every line of a block that begins with ``adamesh``, without what explains it."""
    for block in blocks(page):
        if block.language not in ("", "bash"):
            continue
        for line in block.text.replace("\\\n", "").splitlines():
            if line.startswith("adamesh "):
                joined = re.sub(r"(?<=\S) {2,}(?=-)", " ", line)
                yield shlex.split(_EXPLAINED.sub("", joined))[1:]
