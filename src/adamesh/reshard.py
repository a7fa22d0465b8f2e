"""From one way of cutting a parameter to another, as a list of copies: integers only.

A saved state is a set of *ranges* of each flattened parameter, one per source (a file, a rank). Whoever needs
``start:stop`` of that parameter asks :func:`plan_copies` which parts to take from where, at any world size.
"""

from collections.abc import Container, Iterable
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


def plan_copies(held: Iterable[Range], start: int, stop: int, name: str, near: Container[int] = ()) -> tuple[Copy, ...]:
    """The copies that fill elements ``start:stop`` of parameter ``name``.

    Ranges may overlap (mirrors); each element is copied once: from a near source, if one has it, else from the range
    that reaches furthest.

    Args:
        held: what there is.
        start: the first element wanted.
        stop: the one behind the last.
        name: for errors.
        near: sources that cost nothing.

    Raises:
        LayoutError: some element of ``start:stop`` is held by nobody.
    """
    ranges = sorted((r for r in held if r.start < r.stop), key=lambda r: (r.source not in near, -r.stop, r.source))
    copies = []
    position = start
    while position < stop:
        best = next((r for r in ranges if r.start <= position < r.stop), None)
        if best is None:
            raise LayoutError(
                f"elements {position}:{stop} of {name!r} are missing from the saved state; every element of "
                f"{start}:{stop} must be there. Load the parts of all workers (adamesh.load does)"
            )
        until = min(best.stop, stop)
        if best.source not in near:
            until = min([until, *(r.start for r in ranges if r.source in near and r.start > position)])
        copies.append(Copy(best.source, position - best.start, until - best.start, position - start))
        position = until
    return tuple(copies)
