"""``members.json`` in a run's folder: where newcomers may ask to be let in. Only its owner can read it."""

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adamesh.errors import ConfigurationError

__all__ = ["Members", "forget_members", "read_members", "shared_token", "write_members"]

_NAME = "members.json"
_TOKEN = "token"
_AWAIT_S, _LOOK_S = 60.0, 0.1


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
    _write_private(folder / _NAME, json.dumps(record))


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


def shared_token(folder: Path, *, makes: bool) -> str:
    """The secret of a run that begins on several machines: it lies in the run's folder, which all of them see.

    Args:
        folder: of the run.
        makes: this machine makes it, if it is not there; the others wait.

    Raises:
        ConfigurationError: it does not come.
    """
    file = folder / _TOKEN
    if makes and not file.exists():
        _write_private(file, secrets.token_hex(16))
    deadline = time.monotonic() + _AWAIT_S
    while not file.exists():
        if time.monotonic() >= deadline:
            raise ConfigurationError(
                f"{file} does not appear: machine 0 has not begun, or its --out is not on the disk that this one sees"
            )
        time.sleep(_LOOK_S)
    return file.read_text(encoding="utf-8")


def _write_private(path: Path, text: str) -> None:
    """Write a file whole that only its owner can read."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
