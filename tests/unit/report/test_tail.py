"""A file that is written while it is read."""

import os

import pytest

from adamesh.report.tail import Tail


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lines"


def add(path, text):
    with path.open("a") as file:
        file.write(text)


def test_each_line_is_read_once_and_only_when_it_is_whole(path):
    tail = Tail(path)
    assert tail.read().lines == []
    add(path, "one\ntwo\nthr")
    assert tail.read().lines == [b"one", b"two"]
    assert tail.read().lines == []
    add(path, "ee\n")
    assert tail.read().lines == [b"three"]
    tail.close()


def test_a_file_that_was_replaced_is_read_anew_even_if_it_is_as_long(path):
    tail = Tail(path)
    add(path, "one\ntwo\n")
    tail.read()
    other = path.with_name("other")
    other.write_text("One\nTwo\n")
    other.replace(path)
    fresh = tail.read()
    assert fresh.again
    assert fresh.lines == [b"One", b"Two"]
    assert not tail.read().again
    tail.close()


def test_a_file_that_was_cut_is_read_anew(path):
    tail = Tail(path)
    add(path, "one\ntwo\n")
    tail.read()
    os.truncate(path, 4)
    fresh = tail.read()
    assert (fresh.again, fresh.lines) == (True, [b"one"])
    tail.close()


def test_a_file_that_was_removed_is_told_once(path):
    tail = Tail(path)
    add(path, "one\n")
    tail.read()
    path.unlink()
    assert [tail.read().again, tail.read().again] == [True, False]


def test_a_long_file_comes_in_pieces_and_a_line_longer_than_a_piece_is_passed_over(path):
    add(path, "one\n" + "x" * 50 + "\ntwo\nthree\n")
    tail = Tail(path, most_bytes=16)
    lines, more = [], True
    while more:
        fresh = tail.read()
        assert sum(map(len, fresh.lines)) <= 16
        lines += fresh.lines
        more = fresh.more
    assert lines == [b"one", b"two", b"three"]
    tail.close()
