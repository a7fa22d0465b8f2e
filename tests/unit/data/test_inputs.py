"""Lines to predict on: what is right is read, what is wrong is named with its line."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamesh.data.inputs import read_features, read_lines, read_pairs
from adamesh.errors import DataError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs") / "in.txt"


NUMBERS = st.lists(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1
)


@given(rows=NUMBERS, between=st.sampled_from([",", " , ", ";", " ", "\t", "  "]), end=st.sampled_from(["\n", "\r\n"]))
def test_any_table_of_numbers_comes_back_as_it_was(file, rows, between, end):
    file.write_bytes("".join(between.join(map(repr, row)) + end for row in rows).encode())
    assert torch.equal(read_features(file, 3), torch.tensor(rows))


@given(pairs=st.lists(st.tuples(*[st.integers(0, 2**63 - 1)] * 2), min_size=1), header=st.booleans())
def test_any_pairs_of_ids_come_back_as_they_were(file, pairs, header):
    file.write_text("userId,movieId\n" * header + "".join(f"{user},{item}\n" for user, item in pairs))
    users, items = read_pairs(file, "a user id", "an item id")
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == pairs


@given(text=st.text(st.sampled_from("01.,-e\nnaif x"), max_size=30))
def test_what_is_read_is_finite_and_all_else_is_one_line_that_names_the_file(file, text):
    file.write_text(text)
    for read in (lambda: read_features(file, 2), lambda: torch.from_numpy(read_pairs(file, "a", "b")[0])):
        complaint = str(file)
        try:
            assert read().isfinite().all()
        except DataError as error:
            complaint = str(error)
        assert complaint.startswith(str(file))
        assert "\n" not in complaint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2\n3\n", "line 2: has 1 values, and every line must have 2 numbers"),
        ("1,2\n3,x\n", "line 2: has 'x'"),
        ("1,nan\n", "line 1: has 'nan'"),
        ("inf 1\n", "line 1: has 'inf'"),
        ("1e39,1\n", "line 1: has '1e39'"),
        ("a,b\n1,2\n\n3,4\n", "line 3: is empty"),
        ("a,b\n", "line 1: has no number"),
        ("", "is empty; give 2 numbers"),
        (b"1,2\n\xff\n", "line 2: is no UTF-8 text"),
    ],
)
def test_a_wrong_line_is_named_with_its_number_its_value_and_the_rule(tmp_path, text, said):
    file = tmp_path / "in.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"in\.csv") as caught:
        read_features(file, 2)
    assert said in str(caught.value)


@pytest.mark.parametrize("word", ["-1", "1.0", "x", str(2**63), "٣"])
def test_an_id_is_a_whole_number_that_64_bits_hold(tmp_path, word):
    (tmp_path / "in.csv").write_text(f"1,2\n{word},2\n")
    with pytest.raises(DataError, match=rf"line 2: has {word!r}, .* a user id and an item id, two whole numbers"):
        read_pairs(tmp_path / "in.csv", "a user id", "an item id")


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="absent: no such file; give a text file with words a line"):
        read_lines(tmp_path / "absent", "words")
    with pytest.raises(DataError, match="cannot be read"):
        read_lines(tmp_path, "words")
