"""The command to go on with: what was typed, without what only this command takes, and with what was found."""

import shlex
from collections.abc import Mapping, Sequence

from adamesh.cli.options import option_of

__all__ = ["train_command"]


def train_command(argv: Sequence[str], own: Sequence[str], found: Mapping[str, Sequence[str]]) -> str:
    """``adamesh train`` with the same task and settings, and those that were found.

    Args:
        argv: what stood behind the command's name.
        own: its options that `adamesh train` does not take, or that should not be repeated; each has one value.
        found: values by option, ``--optim.lr``; none: a switch.
    """
    dropped = {*own, *found}
    kept: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if option_of(token) not in dropped:
            kept.append(token)
        elif "=" not in token:
            while tokens and not option_of(tokens[0]):
                tokens.pop(0)
    settings = [part for option, values in found.items() for part in (option, *values)]
    return shlex.join(["adamesh", "train", *kept, *settings])
