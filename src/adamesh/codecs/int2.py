"""Int2: two steps to either side of zero, with a scale per block, four elements a byte."""

from dataclasses import dataclass

from torch import Tensor

from adamesh.codecs.scaled import ScaledBlocks
from adamesh.codecs.scales import mean_magnitudes, scales_for

__all__ = ["Int2"]

_SCALE = 0.624
"""Of the mean of ``|x|``: half of 0.9957 standard deviations, the best step of four even levels for gaussian numbers
(Max 1960, table 2), whose mean magnitude is 0.798 of them."""


@dataclass(frozen=True)
class Int2(ScaledBlocks):
    """2-bit blocks: ``x`` is sent as the nearest of -3, -1, 1 and 3 times ``scale = 0.624 mean|x|``.

    There is no level for zero, and what is beyond the outer levels is cut off: feedback sends it later. Taking the
    largest element for the scale, as `adamesh.Int4` does, would make that level the rule for one element and turn all
    small ones into a third of it, more than they were. From the mean, what is left over of a block is always shorter
    than the block: its squares are less by 0.86 of (mean|x|)**2 an element, or more. Of gaussian numbers a third is
    left over (of `adamesh.Sign`: 0.6).

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.

    Raises:
        ConfigurationError: another block size.
    """

    needs_feedback = True
    keeps_zeros = False
    bits = 2

    def codes_of(self, x_RKB: Tensor, noise_RKB: Tensor | None) -> tuple[Tensor, Tensor]:
        scale_RK1, inverse_RK1 = scales_for(mean_magnitudes(x_RKB), _SCALE)
        steps_RKB = x_RKB * (inverse_RK1 * 0.5)
        return steps_RKB.floor_().clamp_(-2, 1).add_(2), scale_RK1

    def levels_of(self, codes: Tensor) -> Tensor:
        return codes * 2 - 3
