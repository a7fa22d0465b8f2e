"""CIFAR-10 as its author publishes it: the archive for Python or the binary one, or either of them unpacked.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009;
https://www.cs.toronto.edu/~kriz/cifar.html describes both formats and gives the MD5 checksums below.
"""

import gzip
import hashlib
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from adamesh.data.images import Normalisation
from adamesh.data.safe_pickle import read_pickle
from adamesh.errors import DataError

__all__ = ["CIFAR10_CLASSES", "CIFAR10_NORMALISATION", "Cifar10", "read_cifar10"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_NORMALISATION = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))

_PIXELS = 3 * 32 * 32
# By name: size in bytes, MD5.
_OFFICIAL = {
    "cifar-10-python.tar.gz": (170_498_071, "c58f30108f718f92721af3b95e74349a"),
    "cifar-10-binary.tar.gz": (170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
}
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
_BATCH = re.compile(r"(data_batch_\d+|test_batch)(\.bin)?")
# An official batch of 10,000 images takes 31 MB; an archive that claims more is none of CIFAR's.
_LARGEST_BATCH = 1 << 28
_EXPECTED = "data_batch_1 to data_batch_5 and test_batch, with or without .bin"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Cifar10:
    """Images as bytes [n, 3, 32, 32] and labels as int64 [n], for training and for testing."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    origin: str
    """Where it is from, and whether its checksum is the published one."""


def read_cifar10(path: Path) -> Cifar10:
    """Read CIFAR-10, or a subset in its formats, without unpacking anything.

    Args:
        path: ``cifar-10-python.tar.gz``, ``cifar-10-binary.tar.gz`` or a folder of what is in one of them.

    Raises:
        DataError: there is nothing at the path; the archive is truncated or damaged, or is an official one
            (by name and size) with another checksum; a pickle asks for code; it is not CIFAR-10.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give CIFAR-10's archive, or leave data out to do without")
    verified = path.is_file() and _has_known_checksum(path)
    batches: dict[str, tuple[Bytes, Bytes]] = {}
    for name, content in _folder_batches(path) if path.is_dir() else _archive_batches(path):
        origin = f"{path}: {name}"
        stem = name.removesuffix(".bin")
        if stem in batches:
            raise DataError(f"{origin}: is there twice, for Python and binary; keep one of them")
        if not content:
            raise DataError(f"{origin}: is empty; get the file again")
        batches[stem] = _binary_batch(content, origin) if name.endswith(".bin") else _python_batch(content, origin)
    train = [batches[name] for name in sorted(batches) if name != "test_batch"]
    test = [batches[name] for name in batches if name == "test_batch"]
    if not train or not test:
        found = ", ".join(sorted(batches)) or "none of them"
        raise DataError(f"{path}: is not CIFAR-10: it must have {_EXPECTED}, and has {found}")
    origin = f"{path}, checksum verified" if verified else str(path)
    return Cifar10(train=_joined(train), test=_joined(test), origin=origin)


def _has_known_checksum(path: Path) -> bool:
    """Whether this is an official archive; False for another one, which has no published checksum."""
    size, expected = _OFFICIAL.get(path.name, (-1, ""))
    if path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(f"{path}: its MD5 checksum is {found}, the published one {expected}; download it again")
    return True


def _archive_batches(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each batch in a ``.tar.gz``, read in one pass up to gzip's checksum at its end."""
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = PurePosixPath(member.name).name
                    if member.isfile() and _BATCH.fullmatch(name):
                        if member.size > _LARGEST_BATCH:
                            raise DataError(f"{path}: {name} has {member.size:,} bytes; no batch of CIFAR-10 has")
                        content = archive.extractfile(member)
                        assert content is not None
                        yield name, content.read()
            while stream.read(1 << 20):
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{path}: is no whole .tar.gz archive ({error}); download it again") from error


def _folder_batches(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each batch in the folder, or in the one that the archive would have unpacked there."""
    inner = [folder / name for name in _FOLDERS if (folder / name).is_dir()]
    for place in [folder, *inner]:
        for file in sorted(place.iterdir()):
            if _BATCH.fullmatch(file.name) and file.is_file():
                try:
                    yield file.name, file.read_bytes()
                except OSError as error:
                    raise DataError(f"{file}: cannot be read ({error.strerror}); give a readable file") from error


def _python_batch(content: bytes, origin: str) -> tuple[Bytes, Bytes]:
    """A pickled dict with ``data``, uint8 [n, 3072], and ``labels``, a list of n numbers."""
    batch = read_pickle(content, origin)
    if not isinstance(batch, Mapping):
        raise DataError(f"{origin}: holds a {type(batch).__name__}, not the dict that a batch of CIFAR-10 is")
    # Python 2 wrote its keys as bytes, which are texts to Python 3 or not, as the reader likes.
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    data, labels = named.get("data"), named.get("labels")
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (_PIXELS,)):
        raise DataError(f"{origin}: data must be bytes [n, {_PIXELS}]; this is no batch of CIFAR-10")
    if not len(data):
        raise DataError(f"{origin}: has no images; a batch has at least one")
    if not (isinstance(labels, list) and len(labels) == len(data) and all(_is_label(label) for label in labels)):
        raise DataError(f"{origin}: labels must be a list of {len(data)} numbers from 0 to 9")
    return data, np.array(labels, dtype=np.uint8)


def _is_label(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= 9


def _binary_batch(content: bytes, origin: str) -> tuple[Bytes, Bytes]:
    """Rows of one byte of label and 3,072 of pixels."""
    if len(content) % (1 + _PIXELS):
        raise DataError(f"{origin}: {len(content):,} bytes are no whole number of images of {1 + _PIXELS:,}; it is cut")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    if rows[:, 0].max() > 9:
        raise DataError(f"{origin}: has a label of {rows[:, 0].max()}; those of CIFAR-10 are 0 to 9")
    return rows[:, 1:], rows[:, 0]


def _joined(batches: list[tuple[Bytes, Bytes]]) -> tuple[Tensor, Tensor]:
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return torch.from_numpy(images).reshape(-1, 3, 32, 32), torch.from_numpy(labels.astype(np.int64))
