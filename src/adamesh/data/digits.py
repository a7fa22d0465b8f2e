"""The 1,797 handwritten digits that ship with adamesh, 8 x 8 pixels of 17 grey levels each.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998 (its test set, as scikit-learn ships it too).
"""

from importlib.resources import as_file, files
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from adamesh.errors import DataError

__all__ = ["embedded_digits", "read_digits", "read_images", "split_evenly"]


def embedded_digits() -> tuple[Tensor, Tensor]:
    """`read_digits` of the file in the package."""
    with as_file(files("adamesh.data") / "digits.npz") as path:
        return read_digits(path)


def read_digits(path: Path) -> tuple[Tensor, Tensor]:
    """Read a NumPy archive with ``images`` (uint8 [n, 8, 8], 0 to 16) and ``labels`` (integers [n], 0 to 9).

    Returns:
        Images as float32 [n, 1, 8, 8] in 0 to 1, and labels as int64 [n].

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; leave data out to train on the embedded digits") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: is no readable archive of images and labels: {error}") from error
    if images.shape != (len(labels), 8, 8) or not len(labels) or images.max() > 16 or images.min() < 0:
        raise DataError(f"{path}: images must be [n, 8, 8], 0 to 16, one per label, not {images.shape}")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"{path}: labels must be whole numbers 0 to 9, one per image")
    pixels = torch.from_numpy(images.astype(np.float32) / 16)
    return pixels.unsqueeze(1), torch.from_numpy(labels.astype(np.int64))


def read_images(path: Path) -> Tensor:
    """Read a NumPy file of images alone (uint8 [n, 8, 8], 0 to 16), or the ``images`` of an archive.

    Returns:
        float32 [n, 1, 8, 8] in 0 to 1.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            images = loaded if isinstance(loaded, np.ndarray) else loaded["images"]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give a .npy file of images, uint8 [n, 8, 8]") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise DataError(f"{path}: is no NumPy file of images: {error}") from error
    if images.ndim != 3 or images.shape[1:] != (8, 8) or not len(images) or images.max() > 16 or images.min() < 0:
        raise DataError(f"{path}: images must be [n, 8, 8] with grey levels 0 to 16, not {images.shape}")
    return torch.from_numpy(images.astype(np.float32) / 16).unsqueeze(1)


def split_evenly(labels: Tensor, every: int = 5) -> tuple[Tensor, Tensor]:
    """Indices for training and for testing, the same always: every fifth sample of each class is for testing.

    Samples are taken in the order of their labels, then of the file, in which a writer's digits lie
    together; so both parts have every class and every writer in the same proportion.
    """
    by_label = torch.argsort(labels, stable=True)
    is_test = torch.arange(len(labels)) % every == 0
    return by_label[~is_test], by_label[is_test]
