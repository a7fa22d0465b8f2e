"""Int8: 127 steps to either side of zero, with a scale per block; 1 byte and a little per element."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.codecs.scaled import ScaledBlocks, rounded

__all__ = ["Int8"]

_QMAX = 127


@dataclass(frozen=True)
class Int8(ScaledBlocks):
    """Symmetric 8-bit blocks: ``scale = max|x| / 127``, ``x`` is sent as ``round(x / scale)``.

    An element is off by at most half a step, 0.4 % of the largest in its block; ``stochastic``: by less than a step,
    and by nothing on the average.

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.
        stochastic: round up or down by chance, in proportion, from the `Stream` that `encode` is given.

    Raises:
        ConfigurationError: another block size.
    """

    stochastic: bool = False

    needs_feedback = False
    bits = 8
    code_dtype = torch.int8

    def codes_of(self, x_RKB: Tensor, noise_RKB: Tensor | None) -> tuple[Tensor, Tensor]:
        return rounded(x_RKB, _QMAX, noise_RKB)

    def levels_of(self, codes: Tensor) -> Tensor:
        return codes
