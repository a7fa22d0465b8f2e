"""Fragments: every parameter cut into as many contiguous runs, one for each fragment, in integers only.

Runs start on the wire's grain in the flattened parameter's own coordinates, so that they do not depend on the number of
workers. Which run of a parameter is which fragment's turns with the parameter's number: so fragments are alike in size
also where parameters are small.
"""

__all__ = ["fragment_run"]


def fragment_run(param: int, numel: int, fragment: int, num_fragments: int, grain: int) -> tuple[int, int]:
    """``(start, stop)`` of a fragment's run of a flattened parameter; empty for some where there is too little of it.

    Args:
        param: the parameter's number.
        numel: its elements.
        fragment: which, from 0.
        num_fragments: how many there are.
        grain: elements; runs start on its multiples.
    """
    run = (fragment - param) % num_fragments
    num_grains = -(-numel // grain)
    start, stop = (num_grains * r // num_fragments * grain for r in (run, run + 1))
    return min(start, numel), min(stop, numel)
