"""A small convolutional network for small images."""

from torch import Tensor, nn

__all__ = ["SmallCNN"]


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
