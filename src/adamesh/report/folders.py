"""Which runs are meant, and what they are called beside each other."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["run_folders"]


def run_folders(paths: Sequence[Path]) -> dict[str, Path]:
    """Runs by names that tell them apart; a comparison or a sweep stands for its trials."""
    folders: list[Path] = []
    for path in paths:
        trials = sorted(config.parent for config in path.glob("trials/*/config.toml"))
        folders += [path] if (path / "config.toml").is_file() or not trials else trials
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    depth = 1
    while len({folder.parts[-depth:] for folder in folders}) < len(folders):
        depth += 1
    return {"/".join(folder.parts[-depth:]): folder for folder in folders}
