"""Who measures when: one pair at a time, as pairs would disturb one another; in a crowd, disjoint ones together."""

from collections.abc import Sequence

__all__ = ["turns"]

_ALONE = 16
"""Up to so many nodes, each pair has the network for itself: 240 directions of about a second."""


def turns(ranks: Sequence[int], alone: int = _ALONE) -> list[list[tuple[int, int]]]:
    """Each (sender, receiver) once; those of one turn are measured at once, and share no node.

    Rounds are those of a tournament (the circle method: one stays, the others move on by a place).

    Args:
        ranks: of the nodes, at least two.
        alone: up to so many nodes, a turn has one pair.
    """
    seats: list[int | None] = [*ranks, *([None] if len(ranks) % 2 else [])]
    half = len(seats) // 2
    found: list[list[tuple[int, int]]] = []
    for _ in range(len(seats) - 1):
        pairs = [
            (one, other)
            for one, other in zip(seats[:half], reversed(seats[half:]), strict=True)
            if one is not None and other is not None
        ]
        for directed in (pairs, [(other, one) for one, other in pairs]):
            found += [[leg] for leg in directed] if len(ranks) <= alone else [directed]
        seats = [seats[0], seats[-1], *seats[1:-1]]
    return found
