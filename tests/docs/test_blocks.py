"""What the pages show, runs: their programs, and their commands."""

import contextlib
import importlib
import io
import pkgutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import adamesh
import adamesh.cli
from adamesh.cli.main import main
from scripts.blocks import ROOT, blocks, commands, pages

# README's programs are started as programs: test_readme.py.
PAGES = [page for page in pages() if page.name != "README.md" or page.parent != ROOT]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
# Their programs measure something that takes longer than a test may.
LONG = ("docs/sparse.md",)
COMMANDS = sorted({tuple(command) for page in pages() for command in commands(page)})


class Parsed(Exception):
    """The command line was understood: what comes now is work."""


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=[pytest.mark.soak] * (name in LONG))
        for page, name in zip(PAGES, NAMES, strict=True)
        if any(block.language == "python" for block in blocks(page))
    ],
)
def test_programs_of_a_page_run_in_order_and_print_what_stands_below_them(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for block, below in pairwise([*blocks(page), None]):
        if block is None or block.language != "python" or block.saved_as is not None:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(block.text, namespace)
        if below is not None and below.language == "text":
            assert printed.getvalue() == below.text


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_line_that_a_page_shows_is_understood(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for found in pkgutil.iter_modules(adamesh.cli.__path__):
        module = importlib.import_module(f"adamesh.cli.{found.name}")
        if found.name != "options" and hasattr(module, "parse"):
            monkeypatch.setattr(module, "parse", _parsed_and_no_more(module.parse))
    with pytest.raises(Parsed):
        main(command)


def _parsed_and_no_more(parse):
    def stop(*arguments, **settings):
        parse(*arguments, **settings)
        raise Parsed

    return stop


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[-1] in ("tasks", "list")], ids=" ".join)
def test_commands_that_only_show_something_show_it(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    assert capsys.readouterr().out


def test_the_reference_has_every_public_name_once() -> None:
    names = [
        line.removeprefix("::: adamesh.")
        for page in (ROOT / "docs" / "api").glob("*.md")
        for line in page.read_text().splitlines()
        if line.startswith("::: adamesh.") and line.count(".") == 1
    ]
    assert sorted(names) == sorted(adamesh.__all__)


def test_pages_in_chinese_show_the_same_commands_and_programs() -> None:
    for page in (ROOT / "docs" / "zh").glob("*.md"):
        english = [block.text for block in blocks(page.parents[1] / page.name) if block.language in ("bash", "python")]
        chinese = [block.text for block in blocks(page) if block.language in ("bash", "python")]
        assert chinese == english, page


@pytest.mark.soak
@pytest.mark.parametrize("page", ["quick-start", "own-model"])
def test_the_commands_of_a_tutorial_work_one_after_the_other(page: str, tmp_path: Path) -> None:
    script = ["set -e"]
    for block in blocks(ROOT / "docs" / f"{page}.md"):
        if block.saved_as is not None:
            (tmp_path / block.saved_as).write_text(block.text)
        elif block.language == "bash":
            script += [line for line in block.text.splitlines() if not line.startswith(("make ", "source "))]
    _run("\n".join(script), tmp_path)


@pytest.mark.soak
def test_commands_of_the_answers_end_as_the_page_says(tmp_path: Path) -> None:
    listed = list(blocks(ROOT / "docs" / "faq.md"))
    for block, below in pairwise(listed):
        if block.language == "bash":
            fails = below.language == "text" and below.text.splitlines()[-1].startswith("adamesh: ")
            _run(block.text, tmp_path, succeeds=not fails)


def _run(script: str, folder: Path, *, succeeds: bool = True) -> None:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "PYTHONPATH": str(ROOT / "src"), "HOME": str(folder)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
