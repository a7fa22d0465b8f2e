from hypothesis import given
from hypothesis import strategies as st

from adamesh.engine.header import Header, Vote


@st.composite
def headers(draw, num_buckets=None, num_slots=None):
    buckets = draw(st.integers(0, 12)) if num_buckets is None else num_buckets
    slots = draw(st.integers(0, 20)) if num_slots is None else num_slots

    def bits(length):
        return draw(st.lists(st.booleans(), min_size=length, max_size=length))

    return Header(
        epoch=draw(st.integers(0, 2**32 - 1)),
        step=draw(st.integers(0, 2**64 - 1)),
        settings=draw(st.binary(min_size=8, max_size=8)),
        failed=draw(st.booleans()),
        work_s=draw(st.floats(0, 1e6)),
        resend=bits(buckets),
        wide=bits(buckets),
        used=bits(slots),
        changed=bits(slots),
    )


@given(headers())
def test_a_header_comes_back_as_it_was_packed(header: Header):
    back = Header.unpack(header.pack(), len(header.resend), len(header.used))
    assert (back.epoch, back.step, back.settings) == (header.epoch, header.step, header.settings)
    assert (back.failed, back.work_s) == (header.failed, header.work_s)
    for flags in ("resend", "wide", "used", "changed"):
        assert list(getattr(back, flags)) == list(getattr(header, flags)), flags


@given(headers(num_buckets=5, num_slots=9), headers(num_buckets=5, num_slots=9))
def test_headers_of_one_layout_have_one_length(a: Header, b: Header):
    assert len(a.pack()) == len(b.pack())


@given(st.booleans(), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_a_vote_comes_back_to_the_bit(failed: bool, squares: float, measured: float):
    assert Vote.unpack(Vote(failed, squares, measured).pack()) == Vote(failed, squares, measured)


def test_a_norm_that_is_not_a_number_is_told_as_such():
    assert Vote.unpack(Vote(False, float("nan")).pack()).squares != 0.0
    assert str(Vote.unpack(Vote(False, float("nan")).pack()).squares) == "nan"
