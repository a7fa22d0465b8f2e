"""Int4: 7 steps to either side of zero, with a scale per block, two elements a byte."""

from dataclasses import dataclass

from torch import Tensor

from adamesh.codecs.scaled import ScaledBlocks, rounded

__all__ = ["Int4"]

_QMAX = 7
_ZERO = 8
"""The nibble that stands for 0."""


@dataclass(frozen=True)
class Int4(ScaledBlocks):
    """Symmetric 4-bit blocks: ``scale = max|x| / 7``, ``x`` is sent as ``round(x / scale)``.

    An element is off by at most half a step, 7.2 % of the largest in its block; ``stochastic``: by less than a step,
    and by nothing on the average.

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.
        stochastic: round up or down by chance, in proportion, from the `Stream` that `encode` is given.

    Raises:
        ConfigurationError: another block size.
    """

    stochastic: bool = False

    needs_feedback = True
    bits = 4

    def codes_of(self, x_RKB: Tensor, noise_RKB: Tensor | None) -> tuple[Tensor, Tensor]:
        levels_RKB, scale_RK1 = rounded(x_RKB, _QMAX, noise_RKB)
        return levels_RKB.add_(_ZERO), scale_RK1

    def levels_of(self, codes: Tensor) -> Tensor:
        return codes - _ZERO
