"""Small convolutional networks for small images."""

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["PoolingCNN", "SmallCNN"]


class SmallCNN(nn.Module):
    """Two convolutions with batch normalisation, one pooling, one hidden layer.

    Args:
        channels: of the input images.
        side: height and width of the input images in pixels, even.
        classes: number of outputs.
        width: channels of the first convolution; the second has twice as many.
    """

    def __init__(self, channels: int, side: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * width * (side // 2) ** 2, 4 * width),
            nn.ReLU(),
            nn.Linear(4 * width, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, channels, side, side] to logits [n, classes]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


class PoolingCNN(nn.Module):
    """Convolutions that each halve the image and double the channels, then one hidden layer.

    The pooling stands before the normalisation, which then has a quarter of the work; each image stays a row of
    its own from beginning to end.

    Args:
        channels: of the input images.
        side: height and width of the input images in pixels; each of ``widths`` halves it.
        classes: number of outputs.
        widths: channels after each convolution.
        hidden: units of the hidden layer.
    """

    def __init__(
        self, channels: int, side: int, classes: int, widths: tuple[int, ...] = (32, 64, 128), hidden: int = 128
    ) -> None:
        super().__init__()
        stages = [_halving(before, after) for before, after in pairwise((channels, *widths))]
        self.features = nn.Sequential(*stages)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(widths[-1] * (side >> len(widths)) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, channels, side, side] to logits [n, classes]."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def _halving(before: int, after: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU())
