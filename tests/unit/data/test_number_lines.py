import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamesh.data import number_lines
from adamesh.data.number_lines import read_number_lines
from adamesh.errors import DataError

NUMBERS = st.one_of(st.integers(0, 10**12), st.decimals(0, 1000, places=2))


def read(text, separator=b",", columns=("a", "b"), first_line=1):
    return read_number_lines(io.BytesIO(text.encode("latin-1")), "file.csv", separator, columns, first_line)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=20),
    separator=st.sampled_from([",", "\t", "::"]),
    newline=st.sampled_from(["\n", "\r\n"]),
    ends=st.booleans(),
)
def test_what_is_written_is_read(rows, separator, newline, ends):
    text = newline.join(separator.join(map(str, row)) for row in rows) + (newline if ends else "")
    columns = read(text, separator.encode(), ("a", "b", "c"))
    assert [tuple(row) for row in zip(*columns, strict=True)] == [tuple(map(float, row)) for row in rows]


@pytest.mark.parametrize("block_bytes", [1, 2, 5, 7, 1000])
def test_blocks_may_end_anywhere(monkeypatch, block_bytes):
    monkeypatch.setattr(number_lines, "_BLOCK_BYTES", block_bytes)
    first, second = read("1,22\n333,4\n55,6.5")
    np.testing.assert_array_equal(first, [1, 333, 55])
    np.testing.assert_array_equal(second, [22, 4, 6.5])


@pytest.mark.parametrize("block_bytes", [3, 1000])
@pytest.mark.parametrize(
    ("broken", "what"),
    [
        ("5", "has 1 values"),
        ("5,6,7", "has 3 values"),
        ("", "has 1 values"),
        ("x,6", "has 'x' for the a"),
        ("5,", "has '' for the b"),
        ("5,6.5.4", "has '6.5.4' for the b"),
        ("5,.", "has '.' for the b"),
        ("5,-6", "has '-6' for the b"),
        ("5, 6", "has ' 6' for the b"),
        ("5,1e3", "has '1e3' for the b"),
        ("5,\xb2", "has '\xb2' for the b"),
        ("5," + "1" * 16, "for the b"),
        ("5," + "1" * 300, "for the b"),
        ("5\0,6", "for the a"),
    ],
)
def test_a_broken_line_is_named_by_its_number(monkeypatch, broken, what, block_bytes):
    monkeypatch.setattr(number_lines, "_BLOCK_BYTES", block_bytes)
    with pytest.raises(DataError) as caught:
        read(f"1,2\n3,4\n{broken}\n7,8\n", first_line=2)
    assert str(caught.value).startswith("file.csv, line 4: ")
    assert what in str(caught.value)


def test_three_colons_are_no_separator():
    with pytest.raises(DataError, match=r"line 2: has 3 values"):
        read("1::2\n3:::4\n", b"::")


def test_an_empty_file_has_empty_columns():
    assert [len(column) for column in read("")] == [0, 0]
