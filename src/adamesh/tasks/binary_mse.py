"""`binary` with the mean squared error of the probability, the Brier score (Brier 1950), as its loss."""

from torch import Tensor

from adamesh.tasks.binary import TwoRings

__all__ = ["BinaryMSE"]


class BinaryMSE(TwoRings):
    """A point that is on the wrong side for sure has next to no gradient: cross-entropy is the better choice."""

    name = "binary-mse"
    summary = "the same with the mean squared error of the probability"

    def errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.sigmoid() - labels).square()
