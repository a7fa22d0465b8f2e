"""Photographs on disk, decoded a batch at a time: JPEG or PNG whatever they are called, grey, CMYK or with colours."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adamesh.data.draws import uniform
from adamesh.data.images import Normalisation
from adamesh.data.seeds import derived_seed
from adamesh.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGENET_MIDDLE", "IMAGENET_NORMALISATION", "PhotoSplit", "Stored", "is_photo", "read_photos"]

IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# Testing sees the middle 224 of 256 pixels.
IMAGENET_MIDDLE = 224 / 256

# Of the area, and of width to height, that a window of training may have (Szegedy et al. 2015, section 6).
_LEAST_AREA = 0.08
_LARGEST_RATIO = 4 / 3
_SUFFIXES = (".jpeg", ".jpg", ".png")

Box = tuple[float, float, float, float]
"""Left, upper, right, lower, in pixels."""


class Stored(NamedTuple):
    """Where the bytes of an image lie: a file, or a stretch of one."""

    path: Path
    offset: int = 0
    size: int = -1
    """-1: to the end."""

    def read(self) -> bytes:
        """The bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.path} at byte {self.offset:,}" if self.offset else str(self.path)


class PhotoSplit:
    """Images of any size on disk, as squares of one size.

    Args:
        stored: where each image is.
        labels: int64 [n].
        side: height and width of the squares in pixels.

    Raises:
        DataError: pillow is not installed; when a batch is read: an image is missing or damaged.
    """

    def __init__(self, stored: Sequence[Stored], labels: Sequence[int], side: int) -> None:
        assert len(stored) == len(labels), (len(stored), len(labels))
        _require_pillow()
        self._stored = stored
        self._labels = torch.tensor(labels, dtype=torch.int64)
        self._side = side

    def __len__(self) -> int:
        return len(self._stored)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        squares = [
            _square(self._stored[index], self._side, partial(_middle, IMAGENET_MIDDLE)) for index in indices.tolist()
        ]
        return _normalised(squares, IMAGENET_NORMALISATION), self._labels[indices]

    def augmented_batch(self, indices: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        draws = uniform(derived_seed("window and flip", seed), indices, 5).tolist()
        squares = []
        for index, drawn in zip(indices.tolist(), draws, strict=True):
            square = _square(self._stored[index], self._side, partial(_window, drawn))
            squares.append(square.flip(1) if drawn[-1] < 0.5 else square)
        return _normalised(squares, IMAGENET_NORMALISATION), self._labels[indices]


def is_photo(file: Path) -> bool:
    """Whether a file is called like one."""
    return file.suffix.lower() in _SUFFIXES


def read_photos(path: Path, side: int, middle: float, normalisation: Normalisation) -> tuple[list[str], Tensor]:
    """One image, or all images in a folder in the order of their names: their names, and a batch of them.

    Args:
        path: the file, whatever it is called, or the folder.
        side: height and width in pixels that they get.
        middle: the share of their shorter side that is seen, around the middle.
        normalisation: the one that the model was trained with.

    Raises:
        DataError: there is no image, one is damaged, or pillow is not installed.
    """
    _require_pillow()
    files = sorted(file for file in path.iterdir() if is_photo(file)) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: has no images ({', '.join(_SUFFIXES)}); give one, or a folder of them")
    squares = [_square(Stored(file), side, partial(_middle, middle)) for file in files]
    return [file.name for file in files], _normalised(squares, normalisation)


def _require_pillow() -> None:
    if importlib.util.find_spec("PIL") is None:
        raise DataError("photographs are decoded by pillow, which is not installed: pip install 'adamesh[images]'")


def _square(stored: Stored, side: int, box_of: Callable[[int, int], Box]) -> Tensor:
    """A part of an image as bytes [side, side, 3]."""
    from PIL import Image

    try:
        image = _coloured(Image.open(BytesIO(stored.read())))
        image = image.resize((side, side), Image.Resampling.BILINEAR, box=box_of(*image.size))
    # Pillow's own for what it cannot identify is an OSError; a broken PNG raises a SyntaxError.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{stored}: is no readable image ({error}); get it again, or remove it") from error
    return torch.from_numpy(np.array(image))


def _coloured(image: "Image") -> "Image":
    """Red, green and blue of an image of any mode; what is transparent turns black."""
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _middle(share: float, width: int, height: int) -> Box:
    """The square in the middle, of that share of the shorter side."""
    side = share * min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def _window(drawn: Sequence[float], width: int, height: int) -> Box:
    """A window of random area, shape and place; one that does not fit is cut to fit (torchvision draws again)."""
    area = width * height * (_LEAST_AREA + (1 - _LEAST_AREA) * drawn[0])
    ratio = _LARGEST_RATIO ** (2 * drawn[1] - 1)
    across, down = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, upper = (width - across) * drawn[2], (height - down) * drawn[3]
    # A sum may be rounded past the border, which pillow refuses.
    return left, upper, min(width, left + across), min(height, upper + down)


def _normalised(squares: Sequence[Tensor], normalisation: Normalisation) -> Tensor:
    return normalisation(torch.stack(list(squares)).permute(0, 3, 1, 2))
