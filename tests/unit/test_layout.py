from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamesh.errors import LayoutError
from adamesh.layout import GRAIN, Layout, ParamSpec, Table, build_layout, first_mismatch

ITEMSIZE = {"float32": 4, "float64": 8, "bfloat16": 2}

shapes = st.lists(st.integers(0, 12), max_size=3).map(tuple)
kinds = st.tuples(shapes, st.sampled_from(sorted(ITEMSIZE)), st.integers(0, 2), st.booleans())
grains = st.sampled_from([1, 8, GRAIN])
shards = st.integers(1, 5)
replicas = st.integers(1, 3)
sizes = st.sampled_from([1, 100, 2048, 1 << 20])


def specs(drawn, first=0):
    return [
        ParamSpec(f"p{number}", shape, dtype, "cpu", group, ITEMSIZE[dtype], frozen)
        for number, (shape, dtype, group, frozen) in enumerate(drawn, start=first)
    ]


parameters = st.lists(kinds, max_size=12).map(specs)
layouts = st.builds(build_layout, parameters, shards, replicas, sizes, grains)


def spec(name, *shape, **changes):
    return replace(ParamSpec(name, shape, "float32", "cpu", 0, 4), **changes)


@given(layouts)
def test_every_parameter_has_exactly_one_slot_of_its_size(layout: Layout):
    slots = [slot for bucket in layout.buckets for slot in bucket.slots]
    assert sorted(slot.param for slot in slots) == list(range(len(layout.params)))
    assert all(slot.stop - slot.start == layout.params[slot.param].numel for slot in slots)


@given(layouts)
def test_slots_lie_one_behind_the_other_in_their_bucket(layout: Layout):
    for bucket in layout.buckets:
        ends = [0, *(end for slot in bucket.slots for end in (slot.start, slot.stop)), bucket.numel]
        assert ends == sorted(ends)


@given(layouts)
def test_shards_partition_their_bucket_on_the_grain(layout: Layout):
    for bucket in layout.buckets:
        ranges = [bucket.shard_range(rank, layout.num_shards) for rank in range(layout.num_shards)]
        assert (ranges[0][0], ranges[-1][1]) == (0, bucket.numel)
        assert all(before[1] == after[0] for before, after in pairwise(ranges))
        assert all((stop - start) % (layout.grain * layout.num_replicas) == 0 for start, stop in ranges)
        assert all(stop > start for start, stop in ranges)


@given(layouts)
def test_every_element_of_every_parameter_is_in_exactly_one_piece(layout: Layout):
    held = {index: [0] * param.numel for index, param in enumerate(layout.params)}
    for bucket in layout.buckets:
        for rank in range(layout.num_shards):
            for piece in layout.pieces(bucket.index, rank):
                for element in range(piece.start, piece.stop):
                    held[piece.param][element] += 1
    assert all(count == 1 for counts in held.values() for count in counts)


@given(layouts)
def test_a_piece_s_offset_leads_to_its_first_element(layout: Layout):
    for bucket in layout.buckets:
        start_of = {slot.param: slot.start for slot in bucket.slots}
        for rank in range(layout.num_shards):
            start, stop = bucket.shard_range(rank, layout.num_shards)
            for piece in layout.pieces(bucket.index, rank):
                assert start + piece.offset == start_of[piece.param] + piece.start
                assert piece.offset + piece.stop - piece.start <= stop - start


@given(layouts)
def test_a_bucket_holds_parameters_of_one_kind_in_reverse_order(layout: Layout):
    for bucket in layout.buckets:
        held = [layout.params[slot.param] for slot in bucket.slots]
        kind = (bucket.dtype, bucket.device, bucket.group, bucket.dormant)
        assert all((p.dtype, p.device, p.group, p.frozen) == kind for p in held)
        assert [slot.param for slot in bucket.slots] == sorted((s.param for s in bucket.slots), reverse=True)


@given(layouts)
def test_buckets_are_in_the_order_in_which_backward_completes_them(layout: Layout):
    assert [bucket.index for bucket in layout.buckets] == list(range(len(layout.buckets)))
    last_to_arrive = [bucket.slots[-1].param for bucket in layout.buckets]
    assert last_to_arrive == sorted(last_to_arrive, reverse=True)


@given(parameters, shards, sizes)
def test_only_a_bucket_of_one_parameter_may_exceed_the_wanted_size(params, num_shards, bucket_bytes):
    for bucket in build_layout(params, num_shards, bucket_bytes=bucket_bytes).buckets:
        itemsize = params[bucket.slots[0].param].itemsize
        assert len(bucket.slots) == 1 or bucket.slots[-1].stop * itemsize <= bucket_bytes


@given(parameters, shards, replicas, sizes, grains)
def test_slots_start_on_the_grain_and_do_not_depend_on_the_mesh(params, rows, columns, bucket_bytes, grain):
    ours = build_layout(params, rows, columns, bucket_bytes, grain)
    alone = build_layout(params, 1, 1, bucket_bytes, grain)
    assert [bucket.slots for bucket in ours.buckets] == [bucket.slots for bucket in alone.buckets]
    assert all(slot.start % grain == 0 for bucket in ours.buckets for slot in bucket.slots)


@given(layouts, st.lists(kinds, max_size=5), sizes)
def test_extending_a_layout_leaves_its_buckets_and_appends_the_new_ones(layout, drawn, bucket_bytes):
    more = specs(drawn, first=len(layout.params))
    longer = layout.extended(more, bucket_bytes)
    num_old = len(layout.buckets)
    assert longer.params == (*layout.params, *more)
    assert longer.buckets[:num_old] == layout.buckets
    assert [bucket.index for bucket in longer.buckets] == list(range(len(longer.buckets)))
    placed = sorted(slot.param for bucket in longer.buckets[num_old:] for slot in bucket.slots)
    assert placed == list(range(len(layout.params), len(longer.params)))


@given(layouts, layouts)
def test_descriptions_are_equal_exactly_where_layouts_are(a: Layout, b: Layout):
    assert (a.description == b.description) == (a == b)
    assert a.description == replace(a).description


def test_two_parameters_of_one_name_are_refused_when_built_and_when_extended():
    with pytest.raises(LayoutError, match=r"parameters 0 and 1 are both named 'w'"):
        build_layout([spec("w", 3), spec("w", 4)], 2)
    with pytest.raises(LayoutError, match=r"parameters 0 and 1 are both named 'w'"):
        build_layout([spec("w", 3)], 2).extended([spec("w", 4)], 100)


def mismatch(ours, theirs, num_shards=2):
    return first_mismatch(build_layout(ours, 2).description, build_layout(theirs, num_shards).description)


def test_a_mismatch_names_the_first_parameter_that_differs_and_how():
    ours, theirs = [spec("a", 3), spec("b", 4), spec("c", 5)], [spec("a", 3), spec("b", 2, 2), spec("d", 5)]
    assert mismatch(ours, theirs) == "parameter 1 ('b'): shape [4] against [2, 2]"
    assert mismatch([spec("a", 3)], [spec("a", 3, dtype="float64", itemsize=8)]) == (
        "parameter 0 ('a'): dtype 'float32' against 'float64', itemsize 4 against 8"
    )


def test_a_mismatch_of_numbers_names_the_first_parameter_too_many_on_either_side():
    fewer, more = [spec("a", 3)], [spec("a", 3), spec("b", 4)]
    assert mismatch(fewer, more) == "1 parameters against 2; the first one too many is 'b'"
    assert mismatch(more, fewer) == "2 parameters against 1; the first one too many is 'b'"


def test_a_mismatch_of_the_mesh_names_the_number_that_differs():
    assert "num_shards 2 against 3" in mismatch([spec("a", 3)], [spec("a", 3)], num_shards=3)


@given(st.integers(0, 40), st.integers(1, 7))
def test_every_row_of_a_table_has_one_owner_and_no_rank_owns_two_more_than_another(num_rows, num_shards):
    table = Table(0, num_rows, 3)
    ranges = [table.row_range(rank, num_shards) for rank in range(num_shards)]
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(num_rows))
    lengths = [stop - start for start, stop in ranges]
    assert max(lengths) - min(lengths) <= 1
    assert table.row_bounds(num_shards) == (*(start for start, _ in ranges), num_rows)


def test_tables_lie_in_no_bucket_and_their_mode_is_part_of_what_is_compared():
    table = ParamSpec("table", (6, 2), "float32", "cpu", 0, 4, sparse="lazy")
    dense = ParamSpec("dense", (6, 2), "float32", "cpu", 0, 4)
    layout = build_layout([table, dense], 2)
    assert [slot.param for bucket in layout.buckets for slot in bucket.slots] == [1]
    assert layout.tables == (Table(0, 6, 2),)
    assert layout.extended([replace(table, name="more")], 100).tables == (Table(0, 6, 2), Table(2, 6, 2))
    exact = build_layout([replace(table, sparse="exact"), dense], 2)
    assert "'table'" in first_mismatch(exact.description, layout.description)
    assert "sparse 'exact' against 'lazy'" in first_mismatch(exact.description, layout.description)
