import collections
import functools
import os
import pickle
import subprocess
from typing import Any

import numpy as np
import pytest

from adamesh.data.safe_pickle import read_pickle
from adamesh.errors import DataError


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.uint8).reshape(3, 4),
        np.arange(12, dtype=">i4").reshape(3, 4).T,
        np.linspace(0, 1, 5),
        np.zeros((0, 3072), np.uint8),
        np.array(7),
    ],
)
def test_arrays_of_numbers_come_back_at_any_protocol(array, protocol):
    found: Any = read_pickle(pickle.dumps(array, protocol=protocol), "it")
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert found.shape == array.shape


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_data_come_back_at_any_protocol(protocol):
    value = {b"key\xff": [1, -2.5, None, True], "text": ("ü", b"", {"deep": [[]]}), 3: 2**100, b"": "empty"}
    assert read_pickle(pickle.dumps(value, protocol=protocol), "it") == value


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, r"posix\.system"),
        (subprocess.Popen, r"(subprocess|commands)\.Popen"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (getattr, r"(builtins|__builtin__)\.getattr"),
        (functools.partial, r"functools\.partial"),
        (collections.OrderedDict, r"collections\.OrderedDict"),
        (np.load, r"numpy\.load"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_else_that_a_pickle_asks_for_is_named_and_not_run(tmp_path, function, name, protocol):
    trap = pickle.dumps({"data": Calls(function, f"touch {tmp_path}/ran")}, protocol=protocol)
    with pytest.raises(DataError, match=f"it: asks for {name}") as refused:
        read_pickle(trap, "it")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "trap",
    [
        pickle.dumps(np.array([{"an": "object"}]), protocol=2),
        pickle.dumps(Calls(np.dtype, "O"), protocol=2),
        b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
    ],
)
def test_a_known_name_with_arguments_of_another_kind_is_refused(trap):
    with pytest.raises(DataError, match="asks for"):
        read_pickle(trap, "it")


ARRAY = b"cnumpy\nndarray\n(tR"


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"a": 1})[:-3],
        b"\x80\x02\x85.",  # a tuple of nothing
        b"\x80\x02cnumpy\nndarray\n(K\x01K\x02tb.",  # the state of a class
        b"\x80\x02c_codecs\nencode\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.",
        b"\x80\x02" + ARRAY + b".",  # an array without content
        b"\x80\x02" + ARRAY + b"(K\x01tb.",
        b"\x80\x02]q\x00h\x00a.",  # a list in itself
        b"\x80\x02K\x01\x81.",
        b"\x80\x02j\xff\xff\xff\xff.",
        b"\x80\x02P1\n.",  # an object kept elsewhere
        b"\x80\x02\x82\x01.",  # an extension code
    ],
)
def test_a_damaged_pickle_is_refused(damaged):
    with pytest.raises(DataError, match="it: "):
        read_pickle(damaged, "it")


def test_what_one_pickle_sets_does_not_reach_the_next():
    trap = b"\x80\x02c_codecs\nencode\nN}X\x08\x00\x00\x00finishedK\x01s\x86b."
    with pytest.raises(DataError):
        read_pickle(trap, "it")
    assert read_pickle(pickle.dumps(b"bytes", protocol=2), "it") == b"bytes"


def test_a_short_pickle_cannot_grow_without_end():
    lists = b"]" + b"".join(b"q" + bytes([n]) + b"](" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(60))
    assert isinstance(read_pickle(b"\x80\x02" + lists + b".", "it"), list)
