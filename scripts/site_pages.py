"""What the site has beside docs/: changelog, contributing, examples; and a place in the menu for each decision.

A hook of mkdocs (mkdocs.yml names it).
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")


def on_config(config: Any) -> Any:
    """Decisions in their order, below the page that lists them."""
    decisions = sorted((ROOT / "docs/decisions").glob("0*.md"))
    (project,) = (section["Project"] for section in config.nav if "Project" in section)
    (listed,) = (entry for entry in project if "Decisions" in entry)
    listed["Decisions"] = ["decisions/README.md", *(f"decisions/{decision.name}" for decision in decisions)]
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
