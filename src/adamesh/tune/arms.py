"""What is compared: arms, which differ in what `--over` says, and their trials, one for each seed."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from adamesh.errors import ConfigurationError
from adamesh.train.config import changed, known_keys, nearest_key
from adamesh.train.folder import checked
from adamesh.train.settings import RunConfig

__all__ = ["Arm", "Budget", "Trial", "make_arm", "make_arms", "make_trials", "read_overs", "require_comparable"]

Over = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
"""Keys of the configuration that change together, and what they are set to in turn; keys at the end may be left out."""

# The budget and the seeds are everybody's; losses of other data are not to be compared.
_NOT_COMPARED = {
    "task": "compare one task at a time",
    "data": "losses on different data say nothing of each other",
    "out": "every trial has a folder of its own",
    "seed": "take --seeds: every arm is run with each",
    "steps": "every arm has the same budget in samples, or take --budget-s",
    "epochs": "every arm has the same budget in samples, or take --budget-s",
    "max_seconds": "take --budget-s: it is every arm's",
}
# So that a budget in seconds is what ends a run. A rate that falls over this many steps does not fall.
_WITHOUT_END = 10**9
_LONGEST_SLUG = 120


@dataclass(frozen=True)
class Budget:
    """What every trial may use up."""

    seconds: float | None = None
    """In steps; None: as many samples as the configuration says."""


@dataclass(frozen=True)
class Arm:
    """One way to train, among those that are compared."""

    settings: tuple[tuple[str, str], ...]
    """What is different, as the user wrote it: key and value."""
    config: RunConfig
    """Resolved and checked; of the first seed."""

    @property
    def name(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in self.settings) or "as configured"


@dataclass(frozen=True)
class Trial:
    """One run: an arm with one seed."""

    arm: Arm
    config: RunConfig
    """Resolved; its ``out`` is the trial's folder."""
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm.name}, seed {self.config.seed}"


def read_overs(overs: Sequence[str], optim: str | None) -> list[Over]:
    """Keys and values of ``--over key=a,b,c`` and ``--over key:other=a:x,b:y``; ``--optim a:x,b`` is short for
    ``--over optim.rule:optim.lr=a:x,b``.

    Raises:
        ConfigurationError: one is not of this form, or its key is unknown, told twice, or not to be compared.
    """
    found: list[Over] = []
    for text in [*overs, *([] if optim is None else [_rules(optim)])]:
        names, equal, rest = text.partition("=")
        keys = tuple(name.strip().lstrip("-").replace("-", "_") for name in names.split(":"))
        # A colon is a part of a value unless several keys are named.
        values = tuple(_parts(value) if len(keys) > 1 else (value.strip(),) for value in rest.split(","))
        if not equal or not all(all(value) for value in values):
            raise ConfigurationError(f"--over {text}: must be key=value,value,... as in plan.up=exact,int8,int4")
        if max(map(len, values)) > len(keys):
            raise ConfigurationError(f"--over {text}: has values for more keys than it names, {':'.join(keys)}")
        for key in keys:
            require_comparable(key, f"--over {text}")
            if key in [*(known for earlier, _ in found for known in earlier)] or keys.count(key) > 1:
                raise ConfigurationError(f"--over {text}: {key} stands there twice; keep one")
        if len(set(values)) < len(values):
            raise ConfigurationError(f"--over {text}: one of its values stands there twice; keep one")
        found.append((keys, values))
    return found


def require_comparable(key: str, said: str) -> None:
    """Refuse a key that is none, or whose values would make losses incomparable.

    Args:
        key: of the configuration, dotted.
        said: what the user typed, for the error.
    """
    if key in _NOT_COMPARED:
        raise ConfigurationError(f"{said}: {key} cannot be compared; {_NOT_COMPARED[key]}")
    if key not in known_keys():
        raise ConfigurationError(f"{said}: unknown key {key}; the nearest known key is {nearest_key(key)}")


def make_arms(config: RunConfig, overs: Sequence[Over], budget: Budget) -> list[Arm]:
    """All combinations of values, the last key's changing fastest; the first arm is what others are compared with.

    All have the same budget: as many samples as ``config`` says, whatever an arm's batch (to the nearest step), or
    as many seconds. With a budget in seconds the learning rate is constant unless a schedule was asked for: a
    rate that falls to the end of the run would have to know the end.

    Raises:
        ConfigurationError: an arm's settings are wrong, or do not fit each other.
    """
    base = checked(config, config.nproc)
    arms = []
    for values in product(*(values for _, values in overs)):
        settings = tuple(
            # Of keys that change together, those at the end may be left out.
            setting
            for (keys, _), texts in zip(overs, values, strict=True)
            for setting in zip(keys, texts, strict=False)
        )
        arms.append(make_arm(config, settings, base, budget))
    return arms


def make_arm(config: RunConfig, settings: tuple[tuple[str, str], ...], base: RunConfig, budget: Budget) -> Arm:
    """The arm with these settings, on everybody's budget.

    Args:
        config: of all arms.
        settings: keys and values.
        base: ``config``, resolved: its samples are the budget.
        budget: if not that.

    Raises:
        ConfigurationError: the settings are wrong, or do not fit each other.
    """
    mine = config
    try:
        # The rule first: which numbers may be set depends on it.
        for key, value in sorted(settings, key=lambda setting: setting[0] != "optim.rule"):
            mine = changed(mine, key, value)
        mine = checked(_budgeted(mine, base, budget), mine.nproc)
    except ConfigurationError as error:
        raise ConfigurationError(f"{Arm(settings, mine).name}: {error}") from error
    return Arm(settings, mine)


def make_trials(arms: Sequence[Arm], num_seeds: int, folder: Path) -> list[Trial]:
    """Every arm with the same seeds, from the configuration's on; all arms of a seed before the next seed.

    So that a comparison that is stopped half-way has something to say of all arms.
    """
    trials = []
    for number in range(num_seeds):
        for arm in arms:
            seed = arm.config.seed + number
            place = folder / "trials" / f"{_slug(arm.name)}-seed{seed}"
            trials.append(Trial(arm, replace(arm.config, seed=seed, out=place), place))
    return trials


def _rules(optim: str) -> str:
    """What ``--optim`` is short for: rules, each with a learning rate of its own if it has one."""
    return f"optim.rule{':optim.lr' * (':' in optim)}={optim}"


def _parts(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(":"))


def _budgeted(config: RunConfig, base: RunConfig, budget: Budget) -> RunConfig:
    if budget.seconds is not None:
        kind = config.schedule.kind or "constant"
        schedule = replace(config.schedule, kind=kind)
        return replace(config, steps=_WITHOUT_END, epochs=None, max_seconds=budget.seconds, schedule=schedule)
    if base.steps is None:
        return replace(config, steps=None, epochs=base.epochs)
    assert base.batch_size is not None
    samples = base.steps * base.batch_size
    return replace(config, steps=max(1, round(samples / (config.batch_size or base.batch_size))), epochs=None)


def _slug(name: str) -> str:
    """A file's name that no two arms share: what is not plain is spelt out, and a long one has its hash."""
    plain = re.sub(r"[^A-Za-z0-9._=+-]", lambda found: "_" if found[0] == " " else f"%{ord(found[0]):x}", name)
    if len(plain) <= _LONGEST_SLUG:
        return plain
    return f"{plain[: _LONGEST_SLUG - 17]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
