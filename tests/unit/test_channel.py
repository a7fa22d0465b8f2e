import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamesh.comm.channel import _BLOCK, ExactDown, ExactUp, sum_in_rank_order
from adamesh.comm.local import LocalCommunicator
from adamesh.comm.threads import ThreadWorld
from tests.tolerances import SQUARED_NORM

F32, F64 = torch.float32, torch.float64
PRECISIONS = [(F32, F32), (F64, F64), (torch.bfloat16, F32), (torch.float16, F32)]
LENGTHS = [0, 1, 63, 64, 1000, _BLOCK - 1, _BLOCK, _BLOCK + 1, 2 * _BLOCK, 2 * _BLOCK + 7]


def made(size, length, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, generator=generator, dtype=F64).to(dtype) for _ in range(size)]


def naive(chunks, dtype, scale):
    total = chunks[0].to(dtype)
    for chunk in chunks[1:]:
        total = total + chunk.to(dtype)
    return total * scale if scale != 1.0 else total


def check(size, length, dtypes, scale, seed=0):
    sent, dtype = dtypes
    chunks = made(size, length, sent, seed)
    out = torch.full((length,), math.nan, dtype=dtype)
    squares = float(sum_in_rank_order(chunks, out, scale))
    expected = naive(chunks, dtype, scale)
    assert torch.equal(out, expected)
    assert squares == pytest.approx(float(expected.double().square().sum()), rel=SQUARED_NORM[dtype])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtypes", PRECISIONS, ids=lambda pair: str(pair[0]).removeprefix("torch."))
def test_the_sum_is_the_naive_one_in_rank_order_to_the_bit_at_every_block_boundary(length, dtypes):
    for size in (1, 2, 3, 5):
        check(size, length, dtypes, 1.0)
        check(size, length, dtypes, 1.0 / 3)


@given(
    st.integers(1, 6),
    st.integers(0, 300),
    st.sampled_from(PRECISIONS),
    st.floats(1e-6, 1e3),
    st.integers(0, 99),
)
def test_the_sum_is_the_naive_one_for_any_ranks_lengths_and_scale(size, length, dtypes, scale, seed):
    check(size, length, dtypes, scale, seed)


def test_the_order_is_the_ranks_and_not_that_of_the_values():
    chunks = [torch.tensor([value], dtype=F32) for value in (1.0, 1e8, -1e8)]
    out = torch.zeros(1)
    assert float(sum_in_rank_order(chunks, out, 1.0)) == 0.0
    assert float(sum_in_rank_order(chunks[1:] + chunks[:1], out, 1.0)) == 1.0


@given(st.integers(1, 4), st.integers(0, 40), st.sampled_from(PRECISIONS))
def test_the_chunks_that_were_sent_are_only_read(size, length, dtypes):
    chunks = made(size, length, dtypes[0])
    before = [chunk.clone() for chunk in chunks]
    sum_in_rank_order(chunks, torch.zeros(length, dtype=dtypes[1]), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(chunks, before, strict=True))


def test_one_chunk_may_be_scaled_in_place():
    out = torch.arange(4.0)
    assert float(sum_in_rank_order([out], out, 0.5)) == 3.5
    assert out.tolist() == [0.0, 0.5, 1.0, 1.5]


def test_squares_beyond_float32_are_finite_and_those_of_infinities_are_not():
    large = torch.full((_BLOCK + 3,), 1e25)
    assert float(sum_in_rank_order([large], large, 1.0)) == pytest.approx((_BLOCK + 3) * 1e50, rel=SQUARED_NORM[F32])
    large[-1] = math.inf
    assert float(sum_in_rank_order([large], large, 1.0)) == math.inf
    large[0] = math.nan
    assert math.isnan(float(sum_in_rank_order([large], large, 1.0)))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("dtypes", PRECISIONS, ids=lambda pair: str(pair[0]).removeprefix("torch."))
def test_each_owner_ends_with_the_sum_of_its_chunk(size, dtypes):
    sent, total = dtypes
    buckets = made(size, size * 64, sent)

    def law(mesh):
        up = ExactUp(mesh.shard)
        send_N, recv_N = buckets[mesh.shard.rank].clone(), torch.zeros(size * 64, dtype=sent)
        out_S = torch.zeros(64, dtype=total)
        up.launch(recv_N, send_N).wait()
        return out_S, up.collect(recv_N, send_N, out_S, 0.25)

    sums = [out_S for out_S, _ in ThreadWorld(1, size).run(law)]
    assert torch.equal(torch.cat(sums), naive(buckets, total, 0.25))


def test_a_slice_that_everybody_gathered_is_the_owner_s():
    def law(mesh):
        buffer_N = torch.zeros(3 * 5)
        buffer_N[5 * mesh.shard.rank : 5 * mesh.shard.rank + 5] = mesh.shard.rank + 1.0
        ExactDown(mesh.shard).launch(buffer_N).wait()
        return buffer_N.tolist()

    assert ThreadWorld(1, 3).run(law) == [[1.0] * 5 + [2.0] * 5 + [3.0] * 5] * 3


def test_bytes_sent_are_those_of_the_chunks_of_others():
    alone = LocalCommunicator()
    assert ExactUp(alone).bytes_sent(torch.zeros(64)) == ExactDown(alone).bytes_sent(torch.zeros(64)) == 0
    bytes_sent = ThreadWorld(1, 4).run(lambda mesh: ExactUp(mesh.shard).bytes_sent(torch.zeros(64, dtype=F64)))
    assert bytes_sent == [48 * 8] * 4
