"""``adamesh watch``: a run, live."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from adamesh.cli.options import parse
from adamesh.errors import ConfigurationError

if TYPE_CHECKING:
    from adamesh.report.history import History

__all__ = ["run"]

_DESCRIPTION = """\
Shows a run while it goes on: curves, speed, time left, events. It only reads: start it and end it (Ctrl-C) as you like.

--page: in a browser on this machine. The link that is printed has a secret in it, and works nowhere else; from another
machine forward the port first: ssh -L PORT:127.0.0.1:PORT THIS-MACHINE, with --port PORT.
--terminal: right here.
Neither: the page, if this machine has a screen (DISPLAY or WAYLAND_DISPLAY is set, or it is a Mac) or the output is no
terminal; else the terminal.

examples:
  adamesh watch runs/20250131-101530-digits
  adamesh watch runs/first --terminal
  adamesh watch runs/first --page --port 8765
"""
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class Options:
    """What stands on the command line."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder."""
    terminal: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show it in this terminal."""
    page: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Serve a page to a browser on this machine."""
    port: int | None = None
    """Of the page, on 127.0.0.1; not set: any that is free."""

    def __post_init__(self) -> None:
        if self.terminal and (self.page or self.port is not None):
            raise ConfigurationError("--terminal and --page or --port: are two views; give one")
        if self.port is not None and not 1 <= self.port <= _HIGHEST_PORT:
            raise ConfigurationError(f"--port {self.port}: must be 1 to {_HIGHEST_PORT}")


def run(argv: Sequence[str]) -> int:
    """Show it until it has ended or the user has seen enough; returns the exit code."""
    options = parse(Options, argv, command="adamesh watch", description=_DESCRIPTION)
    from adamesh.report.history import History

    history = History(options.folder)
    history.refresh()
    asked = "terminal" if options.terminal else "page" if options.page or options.port else None
    try:
        if (asked or _default()) == "terminal":
            _in_terminal(history)
        else:
            _as_page(history, options.port or 0)
    except KeyboardInterrupt:
        pass  # this is how it ends
    finally:
        history.close()
    return 0


def _default() -> Literal["terminal", "page"]:
    screen = sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return "page" if screen or not sys.stdout.isatty() else "terminal"


def _in_terminal(history: "History") -> None:
    from rich.console import Console

    from adamesh.report.terminal import watch

    watch(history, Console(highlight=False, markup=False))


def _as_page(history: "History", port: int) -> None:
    from adamesh.report.serve import PageServer

    with PageServer(history, port) as server:
        # The link goes to nobody's command line: there, all users of the machine could read its secret.
        print(f"open {server.link}\n(in a browser on this machine; Ctrl-C ends it)", flush=True)
        server.serve_forever()
