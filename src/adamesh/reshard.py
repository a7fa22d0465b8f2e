"""From one way of cutting a parameter to another, as a list of copies: integers only.

A saved state is a set of *ranges* of each flattened parameter, one per source (a file, a rank). Whoever needs
``start:stop`` of that parameter asks :func:`plan_copies` which parts to take from where, at any world size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from adamesh.errors import LayoutError

__all__ = ["Copy", "Range", "plan_copies"]


@dataclass(frozen=True)
class Range:
    """Elements ``start:stop`` of a flattened parameter, held by ``source``."""

    source: int
    start: int
    stop: int


@dataclass(frozen=True)
class Copy:
    """Take ``source_start:source_stop`` of what ``source`` holds and put it at ``target_start``."""

    source: int
    source_start: int
    source_stop: int
    target_start: int


def plan_copies(held: Iterable[Range], start: int, stop: int, name: str) -> tuple[Copy, ...]:
    """The copies that fill elements ``start:stop`` of parameter ``name``.

    Ranges may overlap (mirrors); each element is copied once, from the range that starts first.

    Raises:
        LayoutError: some element of ``start:stop`` is held by nobody.
    """
    copies = []
    position = start
    for range_ in sorted(held, key=lambda r: (r.start, r.stop, r.source)):
        if position >= stop:
            break
        if range_.stop <= position:
            continue
        if range_.start > position:
            break
        until = min(range_.stop, stop)
        copies.append(Copy(range_.source, position - range_.start, until - range_.start, position - start))
        position = until
    if position < stop:
        raise LayoutError(
            f"elements {position}:{stop} of {name!r} are missing from the saved state; every element of "
            f"{start}:{stop} must be there. Load the parts of all workers (adamesh.load does)"
        )
    return tuple(copies)
