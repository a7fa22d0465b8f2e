"""The command to go on with: what was typed, without what only this command takes, and with what was found."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence

from adamesh.cli.options import option_of

__all__ = ["train_command"]

_PAIR = re.compile(r"[-+.\de]+/[-+.\de]+")


def train_command(argv: Sequence[str], own: Sequence[str], found: Mapping[str, str]) -> str:
    """``adamesh train`` with the same task and settings, and those that were found.

    Args:
        argv: what stood behind the command's name.
        own: its options that `adamesh train` does not take, or that should not be repeated; each has a value.
        found: values by key of the configuration, as `adamesh.train.config.changed` reads them.
    """
    switches = {_option(key, value): 0 for key in found for value in ("true", "false")}
    dropped = (
        dict.fromkeys(own, 1) | switches | {_option(key, value): len(_values(value)) for key, value in found.items()}
    )
    settings = [token for key, value in found.items() for token in (_option(key, value), *_values(value))]
    return shlex.join(["adamesh", "train", *_kept(argv, dropped), *settings])


def _kept(argv: Sequence[str], dropped: Mapping[str, int]) -> Iterator[str]:
    """What is left without these options and, of each, so many values in tokens of their own."""
    values = 0
    for token in argv:
        option = option_of(token)
        if option in dropped:
            values = 0 if "=" in token else dropped[option]
        elif values and not option:
            values -= 1
        else:
            yield token


def _option(key: str, value: str) -> str:
    section, dot, name = key.rpartition(".")
    name = name.replace("_", "-")
    return f"--{section}{dot}{'no-' * (value == 'false')}{name}"


def _values(value: str) -> list[str]:
    if value in ("true", "false"):
        return []
    if value == "none":
        return ["None"]
    return value.split("/") if _PAIR.fullmatch(value) else [value]
