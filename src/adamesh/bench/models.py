"""The models that benchmarks train: one that is all optimizer, others that are mostly arithmetic."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamesh.models.transformer import Transformer

__all__ = ["Mlp", "MlpWorkload", "Transformer", "TransformerWorkload", "Workload", "workload"]


class Workload(ABC):
    """A model, its loss, and the batch that one worker gets for a step."""

    @abstractmethod
    def build(self) -> "Mlp | Transformer":
        """The model, initialised from torch's random state."""

    @abstractmethod
    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One worker's inputs and targets for one step."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss, a scalar."""

    @abstractmethod
    def describe(self) -> str:
        """The model's and the batch's size, in words."""


def workload(name: str, *, tiny: bool) -> Workload:
    """The workload that ``name`` stands for on the command line."""
    if name == "mlp":
        return MlpWorkload(layers=3, width=32, batch_size=4) if tiny else MlpWorkload()
    assert name in ("transformer", "gpt2"), name
    if tiny:
        return TransformerWorkload(layers=2, width=32, heads=2, vocabulary=64, context=8, batch_size=2)
    if name == "gpt2":
        return TransformerWorkload(layers=12, width=768, heads=12, vocabulary=50257, context=512, batch_size=8)
    return TransformerWorkload()


class Mlp(nn.Module):
    """Square layers with ReLU between them, initialised so that signals keep their size (He et al. 2015)."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        last = layers - 1
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), *([nn.ReLU()] if index < last else [])) for index in range(layers)
        )
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [n, width] to outputs [n, width]."""
        for block in self.blocks:
            inputs = block(inputs)
        return inputs


@dataclass(frozen=True)
class MlpWorkload(Workload):
    """Regression on noise: 16.8 million parameters and few operations for each of them."""

    layers: int = 16
    width: int = 1024
    batch_size: int = 32

    def build(self) -> Mlp:
        return Mlp(self.layers, self.width)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch_size, self.width)
        return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs, targets)

    def describe(self) -> str:
        return f"{self.layers} layers, {self.width} wide, batch {self.batch_size} per process"


@dataclass(frozen=True)
class TransformerWorkload(Workload):
    """Next-token prediction on random tokens: 7.4 million parameters as it is, 4.2 million of them vocabulary."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocabulary: int = 8192
    context: int = 128
    batch_size: int = 4

    def build(self) -> Transformer:
        return Transformer(self.layers, self.width, self.heads, self.vocabulary, self.context)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        shape = (self.batch_size, self.context + 1)
        tokens = torch.randint(self.vocabulary, shape, generator=generator)
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def describe(self) -> str:
        return (
            f"{self.layers} layers, {self.width} wide, vocabulary {self.vocabulary}, "
            f"{self.batch_size} x {self.context} tokens per process"
        )
