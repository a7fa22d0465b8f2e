"""WebDataset: tar archives in which files of the same name, up to the first dot, are one sample.

Aizman, Maltby & Breuel (2019), "High Performance I/O For Large Scale Deep Learning". Each archive is read through
once, for what lies where; images are then read from it by offset.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from adamesh.data.photos import Stored
from adamesh.errors import DataError

__all__ = ["Label", "index_shard"]

Label = int | str
"""A class's number, or its name."""

_IMAGES = ("jpg", "jpeg", "png")
_LABELS = ("cls", "json")
_LARGEST_LABEL = 1 << 20


def index_shard(shard: Path) -> list[tuple[Stored, Label]]:
    """Where each sample's image lies, and its label, in the order of the archive.

    The label is in ``key.cls`` (a number or a name), or in ``key.json`` under ``label`` or ``cls`` (a number)
    or ``wnid`` (a name). The archive must not be compressed.

    Raises:
        DataError: the archive is damaged or cut short, or a sample has no image or no label.
    """
    images: dict[str, Stored] = {}
    labels: dict[str, Label] = {}
    for key, kind, stored in _members(shard):
        if kind in _IMAGES:
            images[key] = stored
        elif kind == "cls" or key not in labels:
            labels[key] = _label(stored, key, kind)
    alone = sorted(images.keys() ^ labels.keys())
    if alone:
        wanted = "a label (.cls or .json)" if alone[0] in images else "an image (.jpg, .jpeg or .png)"
        raise DataError(f"{shard}: sample {alone[0]} has no {wanted.partition(' ')[2]}; every sample needs both")
    return [(stored, labels[key]) for key, stored in images.items()]


def _members(shard: Path) -> Iterator[tuple[str, str, Stored]]:
    """Key, kind and place of each file that matters."""
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name, _, kind = PurePosixPath(member.name).name.partition(".")
                if member.isfile() and kind.lower() in (*_IMAGES, *_LABELS):
                    key = str(PurePosixPath(member.name).with_name(name))
                    yield key, kind.lower(), Stored(shard, member.offset_data, member.size)
            # An archive ends in a block of zeros. Without it, it was cut between two files.
            if shard.stat().st_size <= archive.offset:
                raise DataError(f"{shard}: ends early, after {archive.offset:,} bytes; get it again")
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{shard}: is no whole, uncompressed .tar archive ({error}); get it again") from error


def _label(stored: Stored, key: str, kind: str) -> Label:
    if stored.size > _LARGEST_LABEL:
        raise DataError(f"{stored.path}: {key}.{kind} has {stored.size:,} bytes; a label is short")
    content = stored.read()
    if len(content) < stored.size:
        raise DataError(f"{stored.path}: ends early, within {key}.{kind}; get it again")
    try:
        text = content.decode().strip()
        value = _from_json(json.loads(text)) if kind == "json" else text
        if value == "":
            raise ValueError("it is empty")
    except ValueError as error:
        raise DataError(f"{stored.path}: {key}.{kind} is no label: {error}") from error
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _from_json(record: object) -> Label:
    fields = record if isinstance(record, dict) else {"label": record}
    for name in ("wnid", "label", "cls"):
        value = fields.get(name)
        if isinstance(value, int | str) and not isinstance(value, bool):
            return value
    raise ValueError("it has neither wnid (a name) nor label or cls (a number)")
