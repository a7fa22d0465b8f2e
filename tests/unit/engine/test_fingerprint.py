import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamesh.engine.fingerprint import checksum, combined, strong


@pytest.mark.parametrize("of", [checksum, strong])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@given(numel=st.integers(1, 3000), place=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_is_always_seen(of, dtype, numel, place, bit):
    values = torch.ones(numel, dtype=dtype)
    before = combined([values], of)
    raw = values.view(torch.uint8)
    raw[place % raw.numel()] ^= 1 << bit
    assert combined([values], of) != before


@given(numel=st.integers(2, 100_000), one=st.integers(0), other=st.integers(0))
def test_words_that_changed_places_are_seen_by_the_strong_one(numel, one, other):
    words = torch.arange(numel)
    one, other = one % numel, other % numel
    before = strong(words)
    words[[one, other]] = words[[other, one]]
    assert bool(strong(words) == before) is (one == other)


def test_two_signs_flipped_are_seen():
    words = torch.zeros(100_000, dtype=torch.int64)
    before = strong(words)
    words[[5, 77]] ^= torch.iinfo(torch.int64).min
    assert strong(words) != before


def test_buffers_that_changed_places_and_odd_tails_count():
    one, other = torch.ones(3, dtype=torch.bfloat16), torch.zeros(5, dtype=torch.uint8)
    assert combined([one, other], checksum) != combined([other, one], checksum)
    changed = other.clone()
    changed[4] = 1
    assert combined([one, changed], checksum) != combined([one, other], checksum)
