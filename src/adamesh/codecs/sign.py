"""Sign: one bit an element, with a scale per block (Seide et al. 2014; Bernstein et al. 2018, with feedback)."""

from dataclasses import dataclass

from torch import Tensor

from adamesh.codecs.scaled import ScaledBlocks
from adamesh.codecs.scales import mean_magnitudes, scales_for

__all__ = ["Sign"]


@dataclass(frozen=True)
class Sign(ScaledBlocks):
    """``x`` is sent as plus or minus the mean of ``|x|`` in its block; zeros too, unless all of the block are.

    Args:
        block: elements that share a scale: 64, 128, 192 or 256.

    Raises:
        ConfigurationError: another block size.
    """

    needs_feedback = True
    keeps_zeros = False
    bits = 1

    def codes_of(self, x_RKB: Tensor, noise_RKB: Tensor | None) -> tuple[Tensor, Tensor]:
        scale_RK1, _ = scales_for(mean_magnitudes(x_RKB), 1.0)
        return (x_RKB >= 0).float(), scale_RK1

    def levels_of(self, codes: Tensor) -> Tensor:
        return codes * 2 - 1
