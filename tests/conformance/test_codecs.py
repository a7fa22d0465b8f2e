"""One battery for every codec: what its bytes must hold, whoever makes them and reads them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adamesh.codecs.base import Codec, Stream
from adamesh.errors import LayoutError
from tests.wire.world import CODECS

F32, F64 = torch.float32, torch.float64
PRECISIONS = [F32, F64, torch.bfloat16, torch.float16]

# Of the length of gaussian blocks: what rounding to 8 and 11 bits leaves, half a step of the largest of 64 or 256 over
# the square root of 3, 1/3 and 1 - 2/pi of the squares, and all that is not among the largest.
LEFT_OVER = {
    "bf16": 2e-3,
    "fp16": 3e-4,
    "int8": 7e-3,
    "int4": 0.12,
    "int4-256-stochastic": 0.2,
    "int2": 0.36,
    "sign": 0.62,
    "topk": 0.97,
}


def numbers(codec: Codec, rows: int, blocks: int, seed: int = 0, dtype: torch.dtype = F32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, blocks * codec.grain, generator=generator, dtype=F64).to(dtype)


def encoded(codec: Codec, x_RN: Tensor, stream: Stream = Stream(7)) -> Tensor:  # noqa: B008
    payload_RB = torch.full((len(x_RN), codec.payload_bytes(x_RN.shape[1])), 0xAA, dtype=torch.uint8)
    codec.encode(x_RN, payload_RB, stream)
    return payload_RB


def decoded(codec: Codec, payload_RB: Tensor, x_RN: Tensor, dtype: torch.dtype = F32) -> Tensor:
    out_RN = torch.full(x_RN.shape, math.nan, dtype=dtype)
    codec.decode(payload_RB, out_RN)
    return out_RN


def there_and_back(codec: Codec, x_RN: Tensor, dtype: torch.dtype = F32) -> Tensor:
    return decoded(codec, encoded(codec, x_RN), x_RN, dtype)


@pytest.mark.parametrize("name", CODECS)
def test_of_gaussian_numbers_no_more_is_left_over_than_is_said(name):
    x_RN = numbers(CODECS[name], 2, 80)
    left = float((x_RN - there_and_back(CODECS[name], x_RN)).norm() / x_RN.norm())
    assert LEFT_OVER[name] / 3 < left < LEFT_OVER[name]


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("name", CODECS)
def test_what_is_encoded_stays_as_it_is_and_every_precision_gives_what_float32_does(name, dtype):
    codec = CODECS[name]
    x_RN = numbers(codec, 3, 2, dtype=dtype)
    before_RN = x_RN.clone()
    payload_RB = encoded(codec, x_RN)
    assert torch.equal(x_RN, before_RN)
    assert torch.equal(payload_RB, encoded(codec, x_RN.float()))
    assert torch.equal(decoded(codec, payload_RB, x_RN).double(), decoded(codec, payload_RB, x_RN, F64))


@pytest.mark.parametrize("name", CODECS)
@given(rows=st.integers(1, 4), blocks=st.integers(0, 5), seed=st.integers(0, 99), exponent=st.integers(-45, 30))
@settings(max_examples=15)
def test_rows_are_coded_independently_of_each_other_and_what_is_left_over_is_less_than_there_was(
    name, rows, blocks, seed, exponent
):
    codec = CODECS[name]
    x_RN = numbers(codec, rows, blocks, seed) ** 3 * 10.0**exponent
    x_RN[:, ::3] = 0
    payload_RB = encoded(codec, x_RN)
    out_RN = decoded(codec, payload_RB, x_RN)
    if "stochastic" in name:  # a row's noise is its own, and what it adds may be more than there was
        assert bool(out_RN.isfinite().all())
        return
    assert all(torch.equal(encoded(codec, x_RN[row : row + 1]), payload_RB[row : row + 1]) for row in range(rows))
    left_RN = x_RN.double() - out_RN.double()
    least = 1e-7 if name == "fp16" else 1e-38  # what these cannot hold is zero, or has lost bits
    for left_B, x_B in zip(left_RN.reshape(-1, 64), x_RN.double().reshape(-1, 64), strict=True):
        if bool(left_B.isfinite().all()):  # float16 has an end
            assert float(left_B.norm()) <= float(x_B.norm()) + 8 * least


@pytest.mark.parametrize("name", CODECS)
def test_zeros_come_back_as_zeros_whatever_the_sign(name):
    x_RN = numbers(CODECS[name], 2, 3)
    x_RN[1, : CODECS[name].grain] = -0.0
    x_RN[0] = 0.0
    out_RN = there_and_back(CODECS[name], x_RN)
    assert not bool(out_RN[0].any())
    assert not bool(out_RN[1, : CODECS[name].grain].any())
    if CODECS[name].keeps_zeros:
        x_RN[1, ::2] = 0.0
        assert not bool(there_and_back(CODECS[name], x_RN)[1, ::2].any())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", CODECS)
def test_one_number_that_is_none_marks_its_block_and_no_other(name, value):
    codec = CODECS[name]
    x_RN = numbers(codec, 2, 3)
    clean_RN = there_and_back(codec, x_RN)
    x_RN[1, codec.grain + 5] = value
    out_RN = there_and_back(codec, x_RN)
    block = slice(codec.grain, 2 * codec.grain)
    assert bool(out_RN[1, block].isnan().any())
    assert not bool(out_RN[1, block].isinf().any())
    out_RN[1, block] = clean_RN[1, block]
    if name != "int4-256-stochastic":
        assert torch.equal(out_RN, clean_RN)
    assert bool(out_RN.isfinite().all())


@pytest.mark.parametrize("value", [3.4e38, torch.finfo(F32).max])
@pytest.mark.parametrize("name", CODECS)
def test_the_largest_numbers_come_back_as_they_are_or_as_none(name, value):
    out_RN = there_and_back(CODECS[name], torch.full((1, CODECS[name].grain), value))
    kept = out_RN[(out_RN != 0) & out_RN.isfinite()]
    step = 0.15 if "stochastic" in name else 0.02
    assert torch.allclose(kept, torch.tensor(value), rtol=step)


@pytest.mark.parametrize("name", CODECS)
def test_a_payload_of_another_size_is_refused(name):
    codec = CODECS[name]
    with pytest.raises(LayoutError, match="does not fit"):
        codec.encode(numbers(codec, 1, 2), encoded(codec, numbers(codec, 1, 1)), Stream(0))
    with pytest.raises(LayoutError, match="pad it with zeros"):
        codec.payload_bytes(codec.grain + 1)


def test_stochastic_rounding_is_right_on_the_average_and_depends_on_the_place_alone():
    codec = CODECS["int4-256-stochastic"]
    x_RN = numbers(codec, 1, 2)
    total_RN = torch.zeros_like(x_RN)
    for key in range(400):
        total_RN += decoded(codec, encoded(codec, x_RN, Stream(key)), x_RN)
    step = float(x_RN.abs().max()) / 7
    assert float((total_RN / 400 - x_RN).abs().max()) < 5 * step / math.sqrt(12 * 400) * 2
    whole_RB = decoded(codec, encoded(codec, x_RN, Stream(3)), x_RN)
    later_RB = decoded(codec, encoded(codec, x_RN[:, 256:], Stream(3, 256)), x_RN[:, 256:])
    assert torch.equal(whole_RB[:, 256:], later_RB)
