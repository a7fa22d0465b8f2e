"""The folder of a run: where a new one begins, and how an old one is opened again."""

import os
from dataclasses import replace
from datetime import datetime
from itertools import count
from pathlib import Path

from adamesh.errors import ConfigurationError, DiskFull
from adamesh.tasks.catalog import find_task
from adamesh.train.config import load_config, resolved, write_config
from adamesh.train.names import check_plan
from adamesh.train.settings import RunConfig

__all__ = ["begin_run", "checked", "free_folder", "reopen_run"]


def begin_run(config: RunConfig, world_size: int, now: datetime, kind: str = "") -> Path:
    """Make a new run's folder, with everything resolved in its ``config.toml``.

    Args:
        config: as the user gave it; without ``out`` the folder is ``runs/<time>-<task>`` here.
        world_size: number of workers that will train.
        now: for the name.
        kind: what it is if not a training run, for the name too: ``runs/<time>-check-<task>``.

    Raises:
        ConfigurationError: the task is unknown, the settings do not fit each other, ``out`` holds a run
            already, or the folder cannot be written.
        DiskFull: there is no room in it.
    """
    config = checked(config, world_size)
    folder = config.out or free_folder(find_task(config.task).name, now, kind)
    if _holds_run(folder):
        shown = os.path.relpath(folder)
        raise ConfigurationError(
            f"out = {shown}: holds a run already; choose another --out, or go on: adamesh resume {shown}"
        )
    _write(replace(config, out=folder), folder)
    return folder


def checked(config: RunConfig, world_size: int) -> RunConfig:
    """The configuration of a run on so many workers, resolved.

    Raises:
        ConfigurationError: the task is unknown, or the settings do not fit each other.
    """
    config = replace(resolved(config, find_task(config.task)), nproc=world_size)
    config.check_world(world_size)
    check_plan(config, world_size)
    return config


def reopen_run(folder: Path, world_size: int | None, steps: int | None) -> Path:
    """Open the run in ``folder`` again, its configuration changed where asked; returns the folder.

    Args:
        folder: of the run.
        world_size: number of workers from now on; None: as before.
        steps: where training ends from now on; None: as before.

    Raises:
        ConfigurationError: there is no run, or the changes do not fit it.
    """
    if not (folder / "config.toml").is_file():
        raise ConfigurationError(f"{folder}: holds no run (no config.toml); give the folder of one")
    before = load_config(folder / "config.toml")
    config = before if steps is None else replace(before, steps=steps, epochs=None)
    config = replace(config, nproc=world_size or config.nproc, out=folder.resolve())
    config.check_world(config.nproc)
    check_plan(config, config.nproc)
    if config != before:
        _write(config, folder)
    return folder


def free_folder(task: str, now: datetime, kind: str = "") -> Path:
    """``runs/<time>-<kind>-<task>`` here, or with a number behind it if there is such a folder."""
    name = "-".join(filter(None, [f"{now:%Y%m%d-%H%M%S}", kind, task]))
    names = (name if attempt == 1 else f"{name}-{attempt}" for attempt in count(1))
    return next(folder for folder in (Path("runs", name).resolve() for name in names) if not folder.exists())


def _holds_run(folder: Path) -> bool:
    """Whether it was trained in; a start that failed before the first step may be repeated."""
    checkpoints, metrics = folder / "checkpoints", folder / "metrics.jsonl"
    saved = checkpoints.is_dir() and any(checkpoints.iterdir())
    return saved or (metrics.is_file() and metrics.stat().st_size > 0)


def _write(config: RunConfig, folder: Path) -> None:
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        write_config(config, folder / "config.toml")
    except OSError as error:
        if DiskFull.is_behind(error):
            raise DiskFull.at(f"out = {folder}", "nothing was begun") from error
        raise ConfigurationError(
            f"out = {folder}: cannot be written ({error.strerror}); choose another folder with --out"
        ) from error
