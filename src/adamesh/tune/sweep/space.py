"""What is searched: keys of the configuration, each with a range or a list of values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, get_args, get_type_hints

from adamesh.errors import ConfigurationError
from adamesh.train.settings import RunConfig
from adamesh.tune.arms import require_comparable

__all__ = ["Choice", "Dimension", "Numbers", "Range", "Scale", "read_searches"]

Scale = Literal["linear", "log", "near1"]
"""near1: the logarithm of the distance to 1, for decay rates: 0.9, 0.99 and 0.999 are equally far from each other."""

_FORM = (
    "must be KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=LOW..HIGH:near1 or KEY=VALUE,VALUE,...; for a pair such as "
    "optim.betas two of them, joined by a slash"
)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` up to ``high``, both included."""

    low: float
    high: float
    scale: Scale
    whole: bool

    def text(self, value: float) -> str:
        """As the configuration reads it, without the digits that a sampled number has and is not worth."""
        if self.whole:
            return str(round(value))
        return f"{1 - float(f'{1 - value:.3g}'):.10g}" if self.scale == "near1" else f"{value:.4g}"


@dataclass(frozen=True)
class Choice:
    """One of several values, as the user wrote them."""

    values: tuple[str, ...]


Numbers = Mapping[str, Any]
"""Parameters of a trial by name, as Optuna has them."""


@dataclass(frozen=True)
class Dimension:
    """A key, and what it may be: a choice, or a range for each of its numbers."""

    key: str
    parts: tuple[Range, ...] | Choice

    def names(self) -> list[str]:
        """Of its parameters. A range near 1 is searched, and shown, as the distance to it."""
        if isinstance(self.parts, Choice):
            return [self.key]
        numbered = [self.key] if len(self.parts) == 1 else [f"{self.key}[{n}]" for n in range(len(self.parts))]
        return [f"1 - {n}" if p.scale == "near1" else n for n, p in zip(numbered, self.parts, strict=True)]

    def setting(self, numbers: Numbers) -> tuple[str, str]:
        """The key's value, as text, of a trial with these parameters."""
        if isinstance(self.parts, Choice):
            return self.key, str(numbers[self.key])
        values = [numbers[name] for name in self.names()]
        texts = [
            p.text(1 - value if p.scale == "near1" else value) for p, value in zip(self.parts, values, strict=True)
        ]
        return self.key, "/".join(texts)

    def corners(self) -> list[str]:
        """Values that must be allowed if all are to be."""
        if isinstance(self.parts, Choice):
            return list(self.parts.values)
        return ["/".join(part.text(getattr(part, end)) for part in self.parts) for end in ("low", "high")]


def read_searches(texts: Sequence[str]) -> list[Dimension]:
    """What ``--search KEY=RANGE`` and ``--search KEY=VALUE,VALUE`` ask for.

    Raises:
        ConfigurationError: one is not of this form, or its key is unknown, told twice, or not to be searched.
    """
    found: dict[str, Dimension] = {}
    for text in texts:
        key, equal, rest = text.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equal or not rest:
            raise ConfigurationError(f"--search {text}: {_FORM}")
        require_comparable(key, f"--search {text}")
        if key in found:
            raise ConfigurationError(f"--search {text}: {key} stands there twice; keep one")
        found[key] = Dimension(key, _parts(text, key, rest))
    if not found:
        raise ConfigurationError("nothing is searched: give --search, as in --search optim.lr=1e-4..1e-1:log")
    return list(found.values())


def _parts(text: str, key: str, rest: str) -> tuple[Range, ...] | Choice:
    if ".." not in rest:
        values = tuple(value.strip() for value in rest.split(","))
        if not all(values) or len(set(values)) < len(values):
            raise ConfigurationError(f"--search {text}: a value is empty, or stands there twice; {_FORM}")
        return Choice(values)
    ranges = rest.split("/")
    kinds = _kinds(key)
    if kinds is None or len(ranges) != len(kinds):
        needed = "values, not a range" if kinds is None else f"{len(kinds)} of them"
        raise ConfigurationError(f"--search {text}: {key} takes {needed}; {_FORM}")
    return tuple(_range(text, part, kind) for part, kind in zip(ranges, kinds, strict=True))


def _kinds(key: str) -> tuple[type, ...] | None:
    """The types of a key's numbers; None if it has none."""
    *sections, last = key.split(".")
    record = get_type_hints(RunConfig)[sections[0]] if sections else RunConfig
    hint = get_type_hints(record)[last]
    for option in (hint, *get_args(hint)):
        if option in (int, float):
            return (option,)
        if get_args(option) == (float, float):
            return (float, float)
    return None


def _range(text: str, part: str, kind: type) -> Range:
    numbers, _, scale = part.partition(":")
    low_text, _, high_text = numbers.partition("..")
    try:
        low, high = kind(low_text), kind(high_text)
    except ValueError:
        raise ConfigurationError(f"--search {text}: {numbers} is no range of a {kind.__name__}; {_FORM}") from None
    known: dict[str, Scale] = {"": "linear", "log": "log", "near1": "near1"}
    if scale not in known:
        raise ConfigurationError(f"--search {text}: unknown scale {scale!r}; take log, near1 or none")
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigurationError(f"--search {text}: {low_text} must be below {high_text}, and both finite")
    if (scale == "log" and low <= 0) or (scale == "near1" and (high >= 1 or kind is int)):
        rule = "log needs numbers above 0" if scale == "log" else "near1 needs numbers below 1"
        raise ConfigurationError(f"--search {text}: {rule}, not {numbers}")
    return Range(low, high, known[scale], whole=kind is int)
