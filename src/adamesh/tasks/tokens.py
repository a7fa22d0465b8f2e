"""What the text tasks share when they predict: the likeliest tokens."""

from typing import Any

from torch import Tensor

from adamesh.data.vocabulary import Vocabulary

__all__ = ["TOP", "likeliest"]

TOP = 5


def likeliest(logits: Tensor, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """The `TOP` tokens that the model finds likeliest, the likeliest first.

    Args:
        logits: of one place, floating point [size]; a vocabulary that found too little text is smaller than
            the model was built for, and what is beyond it means nothing.
        vocabulary: what the numbers mean.
    """
    chances, numbers = logits[: len(vocabulary)].softmax(dim=0).topk(min(TOP, len(vocabulary)))
    pairs = zip(numbers.tolist(), chances.tolist(), strict=True)
    return [{"token": vocabulary.shown(number), "probability": chance} for number, chance in pairs]
