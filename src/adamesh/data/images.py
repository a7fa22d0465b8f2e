"""Images that fit into memory as bytes: normalised, cropped and flipped a batch at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adamesh.data.draws import uniform
from adamesh.data.seeds import derived_seed

__all__ = ["CropFlip", "ImageSplit", "Normalisation"]


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel of the training images, whose pixels are 0 to 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Bytes [n, channels, height, width], in any memory order, to float32 in the same order."""
        mean, std = torch.tensor([self.mean, self.std]).reshape(2, -1, 1, 1)
        # One multiplication and one addition a pixel: (x / 255 - mean) / std.
        return torch.addcmul(-mean / std, images.float(), 1 / (255 * std))


@dataclass(frozen=True)
class CropFlip:
    """The augmentation that came with CIFAR's networks (He et al. 2016, section 4.2; Lee et al. 2015).

    Black borders are added on all sides, a window of the original size is cut out, and every other window is
    mirrored. All images of a batch at once.
    """

    padding: int

    def __call__(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """Bytes [n, channels, height, width] to the same shape, each by its index and the seed alone."""
        height, width = images.shape[-2:]
        draws = uniform(derived_seed("crop and flip", seed), indices, 3)
        top, left = (draws[:, :2] * (2 * self.padding + 1)).long().unsqueeze(-1).unbind(1)
        rows = top + torch.arange(height)
        across = torch.arange(width).expand(len(images), width)
        columns = left + torch.where(draws[:, 2:] < 0.5, across.flip(1), across)
        # Channels last: a pixel is then one short row of a table, and that is how convolutions like it on a CPU.
        padded = functional.pad(images, [self.padding] * 4).permute(0, 2, 3, 1).contiguous()
        samples = torch.arange(len(images)).reshape(-1, 1, 1)
        return padded[samples, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)


class ImageSplit:
    """Images and labels in memory.

    Args:
        images: bytes [n, channels, height, width].
        labels: int64 [n].
        normalisation: of the images, once they are a batch.
        augmentation: what training sees instead.
    """

    def __init__(self, images: Tensor, labels: Tensor, normalisation: Normalisation, augmentation: CropFlip) -> None:
        assert images.dtype == torch.uint8, images.dtype
        assert len(images) == len(labels), (images.shape, labels.shape)
        self._images = images
        self._labels = labels
        self._normalisation = normalisation
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images = self._images[indices].contiguous(memory_format=torch.channels_last)
        return self._normalisation(images), self._labels[indices]

    def augmented_batch(self, indices: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        images = self._augmentation(self._images[indices], indices, seed)
        return self._normalisation(images), self._labels[indices]
