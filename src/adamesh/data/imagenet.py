"""ImageNet, or any photographs kept like it: a folder of folders, or WebDataset's tar archives.

Classes are numbered in the order of their names, ImageNet's wnids ("n01440764" is 0), which is how everybody
numbers them, torchvision's pre-trained weights too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adamesh.data.photos import PhotoSplit, Stored, is_photo
from adamesh.data.webdataset import Label, index_shard
from adamesh.errors import DataError

__all__ = ["ImageNet", "read_imagenet"]

Labelled = list[tuple[Stored, Label]]


@dataclass(frozen=True)
class ImageNet:
    """Photographs for training and for testing."""

    train: PhotoSplit
    test: PhotoSplit
    origin: str
    """Where they are from, in which layout, and of how many classes."""


def read_imagenet(path: Path, side: int, most_classes: int) -> ImageNet:
    """Find the images; they stay on disk until a batch has them.

    Args:
        path: a folder with ``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG`` (``.jpg`` or ``.png`` as well), or
            with WebDataset shards: ``train/*.tar`` and ``val/*.tar``, or ``*train*.tar`` and ``*val*.tar``.
        side: height and width in pixels that the images get.
        most_classes: that the model can tell apart.

    Raises:
        DataError: the folder is missing or is laid out in another way, an archive is damaged, labels are
            missing or too many, or pillow is not installed.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give the one with train and val in it, or leave data out")
    shards = {part: _shards(path, part) for part in ("train", "val")}
    if any(shards.values()):
        layout = "WebDataset shards"
        found = {part: [sample for shard in shards[part] for sample in index_shard(shard)] for part in shards}
    else:
        layout = "folders"
        found = {part: _in_folders(path / part) for part in shards}
    for part, samples in found.items():
        if not samples:
            raise DataError(f"{path}: has no images in {part}; it needs {part}/<wnid>/*.JPEG or {part}/*.tar")
    numbers = _numbered([label for _, label in found["train"]], path, most_classes)
    train, test = (_split(found[part], numbers, side, path) for part in ("train", "val"))
    return ImageNet(train, test, origin=f"{path} ({layout}, {len(numbers):,} classes)")


def _shards(path: Path, part: str) -> list[Path]:
    return sorted((path / part).glob("*.tar")) or sorted(path.glob(f"*{part}*.tar"))


def _in_folders(folder: Path) -> Labelled:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; images lie in train/<wnid> and val/<wnid>, or in *.tar")
    entries = sorted(folder.iterdir())
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes and any(is_photo(entry) for entry in entries):
        raise DataError(f"{folder}: has images and no folders: sort them into one folder for each class (wnid)")
    return [(Stored(file), place.name) for place in classes for file in sorted(place.iterdir()) if is_photo(file)]


def _numbered(labels: Iterable[Label], path: Path, most_classes: int) -> dict[Label, int]:
    """Every label's number: its place among the names, or the number that it is."""
    distinct = set(labels)
    names = sorted(label for label in distinct if isinstance(label, str))
    numbers = sorted(label for label in distinct if isinstance(label, int))
    if names and numbers:
        raise DataError(f"{path}: some labels are numbers ({numbers[0]}), some are names ({names[0]}); keep to one")
    largest = numbers[-1] if numbers else len(names) - 1
    if largest >= most_classes or (numbers and numbers[0] < 0):
        raise DataError(f"{path}: has a class number {largest}; the model has the classes 0 to {most_classes - 1}")
    return {name: number for number, name in enumerate(names)} if names else {number: number for number in numbers}


def _split(samples: Sequence[tuple[Stored, Label]], numbers: dict[Label, int], side: int, path: Path) -> PhotoSplit:
    unknown = sorted({str(label) for _, label in samples if label not in numbers})
    if unknown:
        raise DataError(f"{path}: val has the class {unknown[0]}, which train has not; remove it or add it to train")
    return PhotoSplit([stored for stored, _ in samples], [numbers[label] for _, label in samples], side)
