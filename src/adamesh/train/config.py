"""The configuration file: TOML to `RunConfig` and back, defaults filled in, and its hash."""

import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from adamesh.errors import ConfigurationError
from adamesh.train.files import write_whole
from adamesh.train.settings import OptimSettings, PlanSettings, RunConfig, ScheduleKind, ScheduleSettings

if TYPE_CHECKING:  # tasks need torch, which whoever only reads a configuration does not wait for
    from adamesh.tasks.base import Task

__all__ = [
    "OptimSettings",
    "PlanSettings",
    "RunConfig",
    "ScheduleSettings",
    "changed",
    "config_hash",
    "load_config",
    "resolved",
    "write_config",
]

RecordT = TypeVar("RecordT")

_TYPE_NAMES: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path (a text)",
}
# Where a run lies and how many workers it has this time do not make it another run.
_NOT_HASHED = ("nproc", "out")


def load_config(path: Path) -> RunConfig:
    """Read a configuration file.

    Raises:
        ConfigurationError: the file is missing or no TOML, a key is unknown, a value of the wrong kind or
            out of range; the message starts with the file's name.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(f"{path}: cannot be read ({reason}); give an existing TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not valid TOML: {error}") from error
    try:
        return _record(RunConfig, table, prefix="")
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def resolved(config: RunConfig, task: "Task[Any]") -> RunConfig:
    """The same run with the task's defaults filled in and paths made absolute."""
    defaults = task.defaults
    steps, epochs = config.steps, config.epochs
    if steps is None and epochs is None:
        steps, epochs = defaults.steps, defaults.epochs
    schedule = config.schedule
    # A default comes from a task's file, perhaps a user's; it is checked as a configuration's would be.
    kind = _value(schedule.kind or defaults.schedule, ScheduleKind, "schedule.kind")
    # The rise of a cycle is a part of it: a warm-up that was meant for another schedule says nothing of it.
    warmup_steps = 0 if kind == "one-cycle" != defaults.schedule else defaults.warmup_steps
    return dataclasses.replace(
        config,
        task=str(Path(config.task).resolve()) if config.task.endswith(".py") else config.task,
        data=None if config.data is None else config.data.resolve(),
        weights=None if config.weights is None else config.weights.resolve(),
        out=None if config.out is None else config.out.resolve(),
        steps=steps,
        epochs=epochs,
        batch_size=_first(config.batch_size, defaults.batch_size),
        optim=config.optim.filled(defaults.lr, defaults.weight_decay),
        schedule=dataclasses.replace(schedule, kind=kind, warmup_steps=_first(schedule.warmup_steps, warmup_steps)),
    )


def write_config(config: RunConfig, path: Path) -> None:
    """Write every setting as TOML that `load_config` reads back to an equal record; all of it or nothing.

    Raises:
        DiskFull: what was there before is kept.
    """
    write_whole(path, "\n".join(_toml_lines(config, prefix="")) + "\n")


def changed(config: RunConfig, key: str, text: str) -> RunConfig:
    """The configuration with one key's value given as text: ``changed(config, "plan.up", "int8")``.

    ``none`` is a value that is not set; a list's numbers are joined by slashes: ``0.9/0.999``. Dashes in the key
    are underscores.

    Raises:
        ConfigurationError: the key is unknown, or the value of the wrong kind or out of range.
    """
    name = key.replace("-", "_")
    if name not in known_keys():
        raise ConfigurationError(f"unknown key {key}; the nearest known key is {nearest_key(name)}")
    *sections, last = name.split(".")
    record: Any = getattr(config, sections[0]) if sections else config
    hint = get_type_hints(type(record))[last]
    value = None if text == "none" and NoneType in get_args(hint) else _value(_typed(text, hint), hint, name)
    record = dataclasses.replace(record, **{last: value})
    return dataclasses.replace(config, **{sections[0]: record}) if sections else record


def _typed(text: str, hint: Any) -> object:
    """What TOML would have made of it; the text itself where it is none of that kind."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(option for option in get_args(hint) if option is not NoneType)
    if get_origin(hint) is tuple:
        return [_typed(part, float) for part in text.split("/")]
    kinds: Mapping[object, Callable[[str], object]] = {int: int, float: float, bool: {"true": True, "false": False}.get}
    try:
        value = kinds[hint](text) if hint in kinds else text
    except ValueError:
        return text
    return text if value is None else value


def config_hash(config: RunConfig) -> str:
    """16 hexadecimal digits that two runs share exactly if they should give the same result."""
    settings = dataclasses.asdict(config)
    for key in _NOT_HASHED:
        del settings[key]
    canonical = json.dumps(_canonical(settings), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def known_keys(record: type = RunConfig, prefix: str = "") -> Iterator[str]:
    """Every key of the configuration file, dotted."""
    for key, hint in get_type_hints(record).items():
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            yield from known_keys(hint, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def nearest_key(key: str) -> str:
    """The known dotted key most like ``key``: like all of it, or like its last part ("lr" for "optim.lr")."""

    def likeness(known: str) -> float:
        whole = difflib.SequenceMatcher(None, key, known).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        return max(whole, 0.99 * last)

    return max(known_keys(), key=likeness)


def _record(record: type[RecordT], table: Mapping[str, object], prefix: str) -> RecordT:
    hints = get_type_hints(record)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            near = nearest_key(f"{prefix}{key}")
            raise ConfigurationError(f"unknown key {prefix}{key}; the nearest known key is {near}")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{prefix}{key} = {value!r}: is a section; write [{prefix}{key}]")
            assert isinstance(hint, type)
            values[key] = _record(hint, value, f"{prefix}{key}.")
        else:
            values[key] = _value(value, hint, f"{prefix}{key}")
    return record(**values)


def _value(value: object, hint: Any, key: str) -> Any:
    """``value`` as the field's type wants it: a whole number may serve as a number, a text as a path."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(option for option in get_args(hint) if option is not NoneType)
    if get_origin(hint) is Literal:
        options = get_args(hint)
        if value in options:
            return value
        near = difflib.get_close_matches(str(value), options, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"{key} = {value!r}: must be one of {', '.join(map(repr, options))}{meant}")
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if isinstance(value, list) and len(value) == len(parts):
            return tuple(_value(v, part, key) for v, part in zip(value, parts, strict=True))
        raise ConfigurationError(f"{key} = {value!r}: must be a list of {len(parts)} numbers")
    accepted = {float: (float, int), Path: (str,)}.get(hint, (hint,))
    # bool is an int to Python, but `steps = true` is a mistake.
    if isinstance(value, accepted) and (hint is bool or not isinstance(value, bool)):
        return hint(value)
    raise ConfigurationError(f"{key} = {value!r}: must be {_TYPE_NAMES[hint]}")


def _toml_lines(record: Any, prefix: str) -> Iterator[str]:
    sections = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            sections.append((field.name, value))
        elif value is None:
            yield f"# {field.name} is not set"
        else:
            yield f"{field.name} = {_toml_value(value)}"
    for name, section in sections:
        yield f"\n[{prefix}{name}]"
        yield from _toml_lines(section, f"{prefix}{name}.")


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        # A JSON string is a TOML basic string once DEL, which only TOML forbids, is escaped too.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _canonical(value: object) -> object:
    """For the hash: 25 and 25.0 are one setting, whichever of the two a caller or a file wrote."""
    if isinstance(value, dict):
        return {key: _canonical(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return str(value) if isinstance(value, Path) else value


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)
