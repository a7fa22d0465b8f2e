"""All cases of a kind in ``make soak``; else an even part of them, so that the default run stays short."""

import os
from collections.abc import Iterable
from typing import TypeVar

__all__ = ["THOROUGH", "some"]

T = TypeVar("T")
THOROUGH = os.environ.get("ADAMESH_TESTS") == "all"


def some(cases: Iterable[T], most: int) -> list[T]:
    """The cases, or so many of them at the most, the first and the last among them."""
    found = list(cases)
    if THOROUGH or len(found) <= most:
        return found
    return [found[i * (len(found) - 1) // (most - 1)] for i in range(most)]
