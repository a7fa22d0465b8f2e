"""Pickles of plain data with NumPy arrays in it, read without running anything that they ask for.

A pickle is a program: it names functions and calls them. Here a name means one of the few stand-ins below, which
only take down what they are given; NumPy sees bytes whose length and type have been checked, and nothing else.
"""

import io
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from adamesh.errors import DataError

__all__ = ["read_pickle"]


def read_pickle(content: bytes, origin: str) -> object:
    """What a pickle of numbers, texts, bytes, lists, dicts and NumPy arrays holds, written by Python 2 or 3.

    Args:
        content: the pickle, any protocol.
        origin: what to call it in errors.

    Returns:
        The object; Python 2's texts are decoded as Latin-1, arrays are of numbers and read-only.

    Raises:
        DataError: it names something else, which may be code; the message says what. Or it is damaged.
    """
    try:
        return _finished(_Unpickler(io.BytesIO(content), encoding="latin1").load(), {})
    except _Refused as error:
        raise DataError(f"{origin}: {error}; it may run code, so nothing of it was loaded") from error
    # A damaged program can fail in any way: an empty stack, a wrong type, a number too large to allocate.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{origin}: is no readable pickle ({reason}); get the file again") from error


class _Refused(Exception):
    """The pickle asks for something that plain data do not need."""


class _StandIn:
    """What a pickle's name is taken for: records what it is built from and what is set, and does nothing.

    A pickle can also set the state of the class itself: that only calls ``__setstate__`` with too little.
    """

    __slots__ = ("arguments", "state")

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _DType(_StandIn):
    """``dtype("u1", 0, 1)``, then the state (version, byte order, ...)."""

    __slots__ = ()

    def finished(self) -> "np.dtype[Any]":
        code, order = self.arguments[0], "="
        if isinstance(self.state, tuple):
            order = self.state[1]
        if not (isinstance(code, str) and re.fullmatch(r"[biuf]\d+", code) and order in ("<", ">", "=", "|")):
            raise _Refused(f"asks for an array of {code!r} in the order {order!r}, not of numbers")
        return np.dtype(f"{order}{code}")


class _Array(_StandIn):
    """``_reconstruct(ndarray, (0,), b"b")``, then the state (version, shape, dtype, in Fortran's order, bytes)."""

    __slots__ = ()

    def finished(self) -> "np.ndarray[Any, Any]":
        if not isinstance(self.state, tuple):
            raise ValueError("an array without content")
        _, shape, dtype, fortran, content = self.state
        if isinstance(content, _Encoded):
            content = content.finished()
        elif isinstance(content, str):  # Python 2 had one type for both
            content = content.encode("latin1")
        flat = np.frombuffer(content, dtype.finished())
        return flat.reshape(shape, order="F" if fortran else "C")


class _Encoded(_StandIn):
    """``encode("...", "latin1")``: how Python 3 writes bytes that Python 2 can read; ``bytes()`` if there are none."""

    __slots__ = ()

    def finished(self) -> bytes:
        if not self.arguments:
            return b""
        text, encoding = self.arguments
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused(f"asks for bytes in the encoding {encoding!r}")
        return text.encode("latin1")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Encoded) and self.arguments == other.arguments

    def __hash__(self) -> int:
        return hash(self.arguments)


_KNOWN: Mapping[tuple[str, str], type[_StandIn]] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _Encoded,
    ("builtins", "bytes"): _Encoded,
    ("__builtin__", "bytes"): _Encoded,
}


class _Unpickler(pickle.Unpickler):
    """Knows the stand-ins by name and nothing else."""

    def find_class(self, module: str, name: str) -> type[_StandIn]:
        if (module, name) not in _KNOWN:
            raise _Refused(f"asks for {module}.{name}, which is none of the names that plain data need")
        return _KNOWN[module, name]


def _finished(value: Any, done: dict[int, Any]) -> Any:
    """``value`` with what the stand-ins stand for in their place.

    ``done`` has what is finished by its id: a few bytes of pickle can mention one list a billion times.
    """
    if id(value) not in done:
        done[id(value)] = _finished_anew(value, done)
    return done[id(value)]


def _finished_anew(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _DType | _Array | _Encoded):
        return value.finished()
    if isinstance(value, dict):
        return {_finished(key, done): _finished(inner, done) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_finished(inner, done) for inner in value])
    return value
