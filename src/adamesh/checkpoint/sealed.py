"""A JSON text that carries its own checksum."""

import hashlib
import json
from pathlib import Path
from typing import Any

from adamesh.errors import CheckpointError

__all__ = ["seal", "unseal"]


def seal(content: Any, kind: str, version: int) -> str:
    """As two lines: what it is, with a checksum, and the content."""
    body = json.dumps(content, sort_keys=True) + "\n"
    head = {"format": kind, "version": version, "sha256": hashlib.sha256(body.encode()).hexdigest()}
    return json.dumps(head) + "\n" + body


def unseal(text: str, kind: str, version: int, where: Path) -> Any:
    """The inverse of :func:`seal`.

    Raises:
        CheckpointError: it is cut short, altered, or of a version this release does not know.
    """
    head_line, _, body = text.partition("\n")
    try:
        head = json.loads(head_line)
        known = head["format"] == kind
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{where} is not a checkpoint's manifest (its first line does not parse)") from error
    if not known or head.get("version") != version:
        raise CheckpointError(
            f"{where} is of format {head.get('format')!r} version {head.get('version')!r}; this release reads "
            f"{kind!r} version {version}. Load it with the release that wrote it"
        )
    if hashlib.sha256(body.encode()).hexdigest() != head.get("sha256"):
        raise CheckpointError(
            f"{where} was cut short or altered: its checksum does not match. Load an earlier checkpoint"
        )
    return json.loads(body)
