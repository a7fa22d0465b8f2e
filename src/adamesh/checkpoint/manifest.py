"""The manifest: everything about a checkpoint that is not a tensor, as one checksummed JSON file."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adamesh.checkpoint.sealed import seal, unseal
from adamesh.engine.table import ROW_KEYS
from adamesh.errors import CheckpointError
from adamesh.reshard import Range

__all__ = ["MANIFEST", "FileRecord", "Manifest", "TensorRecord", "read_manifest"]

MANIFEST = "manifest.json"
_FORMAT = "adamesh-checkpoint"
_VERSION = 1


@dataclass(frozen=True)
class FileRecord:
    """One safetensors file, as it must be found."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorRecord:
    """A parameter or buffer: which file it is whole in, and its shape."""

    file: str
    key: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class StateRun:
    """Elements ``start:stop`` of a flattened parameter's state tensors ``keys``, in one file."""

    file: str
    name: str
    start: int
    stop: int
    keys: tuple[str, ...]
    width: int = 1
    """Of a table: elements in a row, to each of which the state tensors in ROW_KEYS have one number."""

    def range(self, source: int, key: str) -> Range:
        """What of a state tensor this is, in that tensor's own numbers."""
        unit = self.width if key in ROW_KEYS else 1
        return Range(source, self.start // unit, self.stop // unit)


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds."""

    generation: int
    files: tuple[FileRecord, ...]
    model: dict[str, TensorRecord]
    runs: tuple[StateRun, ...]
    steps: dict[str, int]
    """Committed updates, by parameter name."""
    scalars: dict[str, dict[str, float]]
    """The rule's own numbers, by parameter name; only those that have some."""
    step: int
    mesh: tuple[int, int]
    param_groups: list[dict[str, Any]]
    extra: dict[str, Any]
    sync: dict[str, Any] = field(default_factory=dict)
    """What is to be known of islands that step alone; empty of others."""

    @property
    def digest(self) -> bytes:
        """The same on two workers exactly if they read the same manifest."""
        return hashlib.sha256(self.dumps().encode()).digest()

    def dumps(self) -> str:
        """As text that carries its own checksum."""
        return seal(asdict(self), _FORMAT, _VERSION)

    @classmethod
    def loads(cls, text: str, where: Path) -> "Manifest":
        """The inverse of :meth:`dumps`.

        Raises:
            CheckpointError: it is cut short, altered, or of a version this release does not know.
        """
        raw = unseal(text, _FORMAT, _VERSION, where)
        return cls(
            generation=raw["generation"],
            files=tuple(FileRecord(**record) for record in raw["files"]),
            model={
                name: TensorRecord(record["file"], record["key"], tuple(record["shape"]))
                for name, record in raw["model"].items()
            },
            runs=tuple(StateRun(**{**run, "keys": tuple(run["keys"])}) for run in raw["runs"]),
            steps=raw["steps"],
            scalars=raw.get("scalars", {}),
            step=raw["step"],
            mesh=(raw["mesh"][0], raw["mesh"][1]),
            param_groups=raw["param_groups"],
            extra=raw["extra"],
            sync=raw.get("sync", {}),
        )


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint in a folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    where = path / MANIFEST
    try:
        if not path.is_dir():
            raise CheckpointError(f"there is no checkpoint folder {path}: give the folder that adamesh.save wrote")
        text = where.read_bytes().decode()  # not read_text(), which would take one line ending for another
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} holds no {MANIFEST}: no checkpoint was completed there. Load an earlier one"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{where} cannot be read ({error}). Load an earlier checkpoint") from error
    return Manifest.loads(text, where)
