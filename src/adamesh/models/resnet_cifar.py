"""The residual networks for CIFAR of He, Zhang, Ren and Sun (2016), "Deep Residual Learning", section 4.2."""

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CifarResNet"]


class CifarResNet(nn.Module):
    """6n + 2 weighted layers: one convolution, three stages of n blocks with 16, 32 and 64 channels, one linear.

    Shortcuts have no parameters (option A). Convolutions are initialised as He et al. (2015) say.

    Args:
        blocks: n of each stage; 3 makes ResNet-20, with 0.27 M parameters, 9 ResNet-56.
        classes: number of outputs.
    """

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_convolution(3, 16, stride=1), nn.BatchNorm2d(16), nn.ReLU())
        stages = [_Block(16, 16, stride=1) for _ in range(blocks)]
        for before, after in ((16, 32), (32, 64)):
            stages += [_Block(before, after, stride=2), *(_Block(after, after, stride=1) for _ in range(blocks - 1))]
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, 3, 32, 32] to logits [n, classes]."""
        features = self.stages(self.stem(images)).mean(dim=(2, 3))
        logits: Tensor = self.classifier(features)
        return logits


class _Block(nn.Module):
    """Two convolutions of 3 x 3 beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_convolution(before, after, stride), nn.BatchNorm2d(after), nn.ReLU())
        self.second = nn.Sequential(_convolution(after, after, stride=1), nn.BatchNorm2d(after))
        self._stride = stride
        self._new_channels = after - before

    def forward(self, images: Tensor) -> Tensor:
        # Option A: every other pixel, and zeros for the channels that are new.
        shortcut = images[:, :, :: self._stride, :: self._stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self._new_channels))
        return functional.relu(self.second(self.first(images)) + shortcut)


def _convolution(before: int, after: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)
