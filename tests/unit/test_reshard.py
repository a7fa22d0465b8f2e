import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.errors import LayoutError
from adamesh.layout import ParamSpec, build_layout
from adamesh.reshard import Range, plan_copies

LENGTH = 40

ends = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(sorted)
ranges = st.lists(ends, max_size=8).map(lambda drawn: [Range(i, a, b) for i, (a, b) in enumerate(drawn)])


def filled(held, start, stop):
    """What a reader gets who follows the plan, from sources that hold each element's own number."""
    content = {r.source: list(range(r.start, r.stop)) for r in held}
    target = {}
    for copy in plan_copies(held, start, stop, "w"):
        for offset, element in enumerate(content[copy.source][copy.source_start : copy.source_stop]):
            assert copy.target_start + offset not in target, "copied twice"
            target[copy.target_start + offset] = element
    return target


@given(ranges, ends)
def test_the_copies_fill_each_wanted_element_once_or_somebody_is_told_what_is_missing(held, wanted):
    start, stop = wanted
    there = {element for r in held for element in range(r.start, r.stop)}
    missing = [element for element in range(start, stop) if element not in there]
    if not missing:
        assert filled(held, start, stop) == {i: start + i for i in range(stop - start)}
    else:
        with pytest.raises(LayoutError, match=f"elements {missing[0]}:{stop} of 'w' are missing"):
            plan_copies(held, start, stop, "w")


@given(ranges, st.permutations(range(8)), ends)
def test_the_plan_does_not_depend_on_the_order_of_the_ranges(held, order, wanted):
    start, stop = wanted
    shuffled = [held[i] for i in order if i < len(held)]
    everything = Range(99, 0, LENGTH)
    assert plan_copies([*held, everything], start, stop, "w") == (
        plan_copies([*shuffled, everything], start, stop, "w")
    )


@given(ranges)
def test_nothing_is_copied_where_nothing_is_wanted(held):
    assert plan_copies(held, 7, 7, "w") == ()


@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 6), st.integers(0, 3))
def test_any_world_size_finds_its_shards_in_the_files_of_any_other(numel, before, after, neighbours):
    params = [ParamSpec(f"p{i}", (numel,), "float32", "cpu", 0, 4) for i in range(1 + neighbours)]

    def cut(num_shards):
        layout = build_layout(params, num_shards)
        pieces = [(rank, piece) for rank in range(num_shards) for piece in layout.pieces(0, rank)]
        return [Range(rank, piece.start, piece.stop) for rank, piece in pieces if piece.param == 0]

    for wanted in cut(after):
        held = filled(cut(before), wanted.start, wanted.stop)
        assert held == {i: wanted.start + i for i in range(wanted.stop - wanted.start)}
