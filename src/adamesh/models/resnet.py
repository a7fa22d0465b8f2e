"""Residual networks for photographs: He, Zhang, Ren and Sun (2016), "Deep Residual Learning", table 1.

Parameters and buffers are named and shaped as torchvision's, so that its state dicts fit.
"""

from torch import Tensor, nn

__all__ = ["ResNet", "resnet50"]


def resnet50(classes: int = 1000) -> "ResNet":
    """ResNet-50: 25,557,032 parameters with 1,000 classes."""
    return ResNet((3, 4, 6, 3), classes)


class ResNet(nn.Module):
    """Four stages of bottleneck blocks, with 256 to 2,048 channels.

    A stage's stride stands in the 3 x 3 convolution, as in torchvision ("v1.5"); in the paper it is in the
    first 1 x 1. Convolutions are initialised as He et al. (2015) say; each block begins as its shortcut alone, the
    scale of its last normalisation being 0 (Goyal et al. 2017, section 5.1).

    Args:
        blocks: of each stage.
        classes: number of outputs.
    """

    def __init__(self, blocks: tuple[int, int, int, int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(256, 128, blocks[1], stride=2)
        self.layer3 = _stage(512, 256, blocks[2], stride=2)
        self.layer4 = _stage(1024, 512, blocks[3], stride=2)
        self.fc = nn.Linear(2048, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 3, height, width], of 32 pixels at least, to logits [n, classes]."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


class _Bottleneck(nn.Module):
    """1 x 1 to fewer channels, 3 x 3, 1 x 1 to four times as many, beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.conv1 = nn.Conv2d(before, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or before != after:
            projection = nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, images: Tensor) -> Tensor:
        shortcut = images if self.downsample is None else self.downsample(images)
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.relu(self.bn2(self.conv2(features)))
        features = self.bn3(self.conv3(features)) + shortcut
        activated: Tensor = self.relu(features)
        return activated


def _stage(before: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = _Bottleneck(before, width, stride)
    return nn.Sequential(first, *(_Bottleneck(4 * width, width, stride=1) for _ in range(blocks - 1)))
