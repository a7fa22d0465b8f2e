"""``members.json`` in a run's folder: where newcomers may ask to be let in. Only its owner can read it."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adamesh.errors import ConfigurationError

__all__ = ["Members", "forget_members", "read_members", "write_members"]

_NAME = "members.json"


@dataclass(frozen=True)
class Members:
    """The workers of a run's epoch."""

    token: str
    """The run's secret."""
    epoch: int
    addresses: Sequence[tuple[str, int]]


def write_members(folder: Path, members: Members) -> None:
    """Leave them in the run's folder, in place of those before."""
    record = {"token": members.token, "epoch": members.epoch, "addresses": [list(a) for a in members.addresses]}
    draft = folder / f".{_NAME}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file)
    draft.replace(folder / _NAME)


def read_members(folder: Path) -> Members | None:
    """Those of a run that goes on; None if there are none.

    Raises:
        ConfigurationError: the file is not what a run leaves.
    """
    file = folder / _NAME
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        addresses = [(str(host), int(port)) for host, port in record["addresses"]]
        return Members(str(record["token"]), int(record["epoch"]), addresses)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file} cannot be read ({error}): it is not what a run leaves") from error


def forget_members(folder: Path) -> None:
    """The run has ended."""
    (folder / _NAME).unlink(missing_ok=True)
