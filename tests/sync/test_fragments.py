"""Every element of every parameter is in exactly one fragment, wherever buckets and shards are cut."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import adamesh
from adamesh.comm.threads import ThreadWorld
from adamesh.sync.fragments import fragment_run

GRAINS = st.sampled_from([64, 128, 4096])


@given(st.integers(0, 50), st.integers(0, 20000), st.integers(1, 40), GRAINS)
def test_a_parameters_runs_follow_on_each_other_and_start_on_the_grain(param, numel, count, grain):
    runs = sorted(fragment_run(param, numel, fragment, count, grain) for fragment in range(count))
    assert all(start % grain == 0 or start == stop for start, stop in runs)
    covered = 0
    for start, stop in runs:
        if start < stop:
            assert start == covered
            covered = stop
    assert covered == numel


@given(st.integers(1, 16), st.integers(0, 100))
def test_small_parameters_are_dealt_out_evenly(count, first):
    held = [
        sum(stop - start for p in range(first, first + count) for start, stop in [fragment_run(p, 64, f, count, 64)])
        for f in range(count)
    ]
    assert held == [64] * count


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(0, 90), max_size=2), min_size=1, max_size=5),
    st.integers(1, 6),
    st.sampled_from([(1, 1), (2, 1), (1, 3), (2, 2)]),
    st.sampled_from([1e-6, 2e-2, 25]),
    st.booleans(),
)
def test_every_element_is_averaged_exactly_once_a_period(shapes, fragments, shape, bucket_mb, coded):
    codec = adamesh.Feedback(adamesh.Int8(block=128)) if coded else None
    sync = adamesh.DiLoCo(max(fragments, 2), fragments=fragments, codec=codec)

    def law(mesh):
        params = [nn.Parameter(torch.zeros(dims)) for dims in shapes]
        optimizer = adamesh.AdamW(params, plan=adamesh.Plan(mesh=mesh, sync=sync, bucket_mb=bucket_mb))
        outer = optimizer.engine.transaction.agreement.outer
        assert outer is not None
        counts = {slot.name: torch.zeros(slot.value.numel()) for slot in optimizer.engine.slots}
        for fragment in [f for step in range(sync.h) for f in sync.at(step).launch]:
            for lane in outer.lanes([fragment]):
                for stretch in lane.stretches:
                    for piece in lane.anchor.shard.pieces:
                        low = max(stretch.start, piece.place.offset)
                        high = min(stretch.stop, piece.place.offset + piece.place.stop - piece.place.start)
                        start = piece.place.start - piece.place.offset
                        if low < high:
                            counts[piece.slot.name][low + start : high + start] += 1
        return counts

    workers = ThreadWorld(*shape).run(law)
    for name in workers[0]:
        by_island = [sum(w[name] for w in workers[i : i + shape[1]]) for i in range(0, len(workers), shape[1])]
        assert all(bool((count == 1).all()) for count in by_island)
