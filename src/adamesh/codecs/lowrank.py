"""Low rank: a matrix as a product of two thin ones, by one step of power iteration (PowerSGD, Vogels et al. 2019).

    M = g + E       P = mean(M Q)       P <- orthonormal(P)       Q_i = M^T P       Q = mean(Q_i)
    mean(M) ~ P Q^T                     E <- M - P Q_i^T, with the *local* Q_i

The mean of the workers' approximations ``P Q_i^T`` is exactly what is applied, so that what is applied and the mean of
what is held back add up to what went in. (PyTorch's own hook keeps the distance to the *mean* approximation, which
grows without bound where workers have different data.)

No codec: there are two reductions, of which the second waits for the first. A record and its arithmetic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adamesh.errors import ConfigurationError
from adamesh.layout import GRAIN

__all__ = ["LowRank", "drawn", "orthonormal"]


@dataclass(frozen=True)
class LowRank:
    """Send a matrix of n x m as ``rank * (n + m)`` numbers; what is no matrix, or too small to gain, goes as it is.

    Args:
        rank: columns of the thin matrices.

    Raises:
        ConfigurationError: fewer than one.
    """

    rank: int = 4

    grain = GRAIN

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigurationError(f"LowRank(rank={self.rank}): must be at least 1, as in LowRank(4)")

    def matrix(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """(rows, columns) of a parameter seen as a matrix, all dimensions but the first as columns; None if it is sent
        as it is.
        """
        if len(shape) < 2:
            return None
        rows, columns = shape[0], math.prod(shape[1:])
        return (rows, columns) if self.rank * (rows + columns) < rows * columns else None


def orthonormal(p_NR: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span, filled up where they are dependent."""
    basis_NR: Tensor = torch.linalg.qr(p_NR).Q
    return basis_NR


def drawn(columns: int, rank: int, key: int, like: Tensor) -> Tensor:
    """The Q of the first step, [columns, rank]: normal numbers, the same on every worker."""
    generator = torch.Generator("cpu").manual_seed(key % 2**63)
    return torch.randn(columns, rank, generator=generator, dtype=torch.float64, device="cpu").to(like)
