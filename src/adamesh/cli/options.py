"""A command's options: tyro's parser and help over a dataclass, with errors of one line."""

import contextlib
import dataclasses
import difflib
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro

from adamesh.errors import ConfigurationError

__all__ = ["FLAT", "is_given", "option_of", "parse"]

OptionsT = TypeVar("OptionsT")

_KINDS: dict[object, str] = {int: "a whole number", float: "a number", str: "a text", Path: "a path"}
# A nested record's options are `--section.key`; those of a field so marked are the level above's own.
FLAT = tyro.conf.arg(name="")


def parse(
    record: type[OptionsT],
    argv: Sequence[str],
    *,
    command: str,
    description: str,
    default: OptionsT | None = None,
) -> OptionsT:
    """Fill ``record`` from the command line; ``--help`` prints the help and raises ``SystemExit(0)``.

    Args:
        record: a dataclass whose fields have docstrings; nested dataclasses become ``--section.key``.
        argv: the arguments after the command's name.
        command: what was typed before them: ``adamesh train``.
        description: what the command does, with examples; the first part of its help.
        default: where defaults come from, if not from ``record`` itself.

    Raises:
        ConfigurationError: an option is unknown (the nearest known is named), lacks its value, or has one of
            the wrong kind or out of range.
    """
    known = dict(_options(record))
    _refuse_unknown(argv, known, command)
    defaults: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    # tyro joins lines, except those that begin with a space.
    shown = textwrap.indent(description, "  ")
    try:
        with contextlib.redirect_stderr(complaint):
            options: OptionsT = tyro.cli(record, prog=command, description=shown, args=argv, **defaults)
    except SystemExit as end:
        if not end.code:
            raise
        tail = f"; {command} --help lists all options"
        line = _from_record(end) or _from_tyro(complaint.getvalue(), argv, known) + tail
        raise ConfigurationError(line) from None
    return options


def is_given(argv: Sequence[str], option: str) -> bool:
    """Whether ``option``, such as ``--steps``, stands on the command line."""
    return any(option_of(token) == option for token in argv)


def _options(record: type, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Every option that tyro will make of a record, and its type."""
    for field in dataclasses.fields(record):
        hint = get_type_hints(record, include_extras=True)[field.name]
        marks: tuple[Any, ...] = ()
        if get_origin(hint) is Annotated:
            hint, *rest = get_args(hint)
            marks = tuple(rest)
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _options(hint, prefix if FLAT in marks else f"{prefix}{name}.")
        elif tyro.conf.Positional not in marks:
            yield prefix + name, hint
            if hint is bool:
                yield f"{prefix}no-{name}", hint


def option_of(token: str) -> str:
    """``--batch_size=4`` is the option ``--batch-size``; a negative number is none."""
    return token.partition("=")[0].replace("_", "-") if re.match(r"--?[A-Za-z]", token) else ""


def _refuse_unknown(argv: Sequence[str], known: dict[str, Any], command: str) -> None:
    for token in argv:
        option = option_of(token)
        if option and option not in known and option not in ("-h", "--help"):
            nearest = max([*known, "--help"], key=lambda other: _likeness(option, other))
            raise ConfigurationError(
                f"unknown option {option}; the nearest known is {nearest}; {command} --help lists all options"
            )


def _likeness(option: str, known: str) -> float:
    """How alike all of it, or its last part is: --lr means --optim.lr."""
    whole = difflib.SequenceMatcher(None, option, known).ratio()
    last = difflib.SequenceMatcher(None, _key(option), _key(known)).ratio()
    return max(whole, 0.99 * last)


def _key(option: str) -> str:
    return option.lstrip("-").rpartition(".")[2]


def _from_record(end: BaseException) -> str | None:
    """What a record's own check said: tyro raises SystemExit while handling it."""
    cause = end.__context__
    while cause is not None:
        if isinstance(cause, ConfigurationError):
            return str(cause)
        cause = cause.__context__
    return None


def _from_tyro(complaint: str, argv: Sequence[str], known: dict[str, Any]) -> str:
    """One line of tyro's box. Its wording is not a promise, so what we do not recognise is only flattened."""
    flat = " ".join(re.sub(r"[─-╿]|-{5,}", " ", complaint).split())
    named = re.search(r"(?:Error parsing|for argument) '?(--[\w.-]+)", flat)
    option = named.group(1).rstrip(".") if named else ""
    if "Missing value" in flat and option in known:
        return f"{option}: must be followed by {_kind(known[option])}"
    if option in known:
        return f"{option} {_value_of(option, argv)}: must be {_kind(known[option])}"
    stray = re.search(r"Unrecognized options: (\S+)", flat)
    if stray:
        return f"{stray.group(1)!r}: belongs to no option; remove it or put its option's name before it"
    missing = re.search(r"Missing from [^:]+: (\S+)", flat)
    if missing:
        return f"{missing.group(1)}: is missing; it has no default"
    return flat.split(" For full helptext")[0]


def _value_of(option: str, argv: Sequence[str]) -> str:
    """What was typed for an option, the last time it was typed."""
    for position in reversed(range(len(argv))):
        if option_of(argv[position]) == option:
            _, joined, value = argv[position].partition("=")
            rest = iter(argv[position + 1 :])
            return value if joined else next(rest, "")
    return ""


def _kind(hint: Any) -> str:
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_kind(option) if option is not NoneType else "None" for option in get_args(hint))
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"{len(get_args(hint))} values, each {_kind(get_args(hint)[0])}"
    return _KINDS.get(hint, f"a {getattr(hint, '__name__', hint)}")
