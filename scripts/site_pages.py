"""What mkdocs.yml does not name: changelog, contributing, examples, a place in the menu for each decision and new page.

A hook of mkdocs (mkdocs.yml names it).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
_ENGLISH = '<html lang="en"'


def on_config(config: Any) -> Any:
    """Decisions in their order, below the page that lists them; and pages that have no place among the commands."""
    decisions = sorted((ROOT / "docs/decisions").glob("0*.md"))
    (listed,) = (entry for entry in _section(config, "Project") if "Decisions" in entry)
    listed["Decisions"] = ["decisions/README.md", *(f"decisions/{decision.name}" for decision in decisions)]
    placed = set(_pages(config.nav))
    new = sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name not in placed)
    _section(config, "Commands").extend(new)
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages and programs that lie beside docs/."""
    for path in (*PAGES, *(f"examples/{program.name}" for program in sorted((ROOT / "examples").glob("*.py")))):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that are right in the repository become right on the site, where docs/ is the root."""
    if page.file.src_uri in PAGES:
        return re.sub(r"\]\(docs/", "](", markdown)
    if "/" not in page.file.src_uri:
        return markdown.replace("](../examples/", "](examples/")
    return markdown.replace("](../../examples/", "](../examples/")


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Pages in Chinese say so: browsers choose glyphs by it, and would take Japanese ones for a page in English."""
    if not page.file.src_uri.startswith("zh/"):
        return output
    if output.count(_ENGLISH) != 1:
        raise PluginError(f"{page.file.src_uri}: {_ENGLISH} not found once; the theme writes it otherwise now")
    return output.replace(_ENGLISH, '<html lang="zh-Hans"')


def _section(config: Any, name: str) -> list[Any]:
    (entries,) = (section[name] for section in config.nav if name in section)
    assert isinstance(entries, list)
    return entries


def _pages(nav: Any) -> Iterator[str]:
    """All that a menu names, however deep."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _pages(entry)
