import io

import pytest
from rich.console import Console

from adamesh.train.progress import Lines, LiveBar, Silent, display_for


def shown(terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, highlight=False, markup=False)
    display = display_for(True, console)
    display.begin([("task", "mine [really]"), ("data", "generated")], done_steps=0, total_steps=3)
    for step in (1, 2, 3):
        display.step(step, {"loss": 0.5 / step})
    display.say("a line that stays")
    display.end()
    display.summary([("test accuracy", "0.97")])
    return display, text.getvalue()


@pytest.mark.parametrize(("terminal", "kind"), [(True, LiveBar), (False, Lines)])
def test_a_display_shows_header_progress_lines_and_summary(terminal, kind):
    display, text = shown(terminal)
    assert isinstance(display, kind)
    for part in ("task  mine [really]", "generated", "3/3", "0.1667", "a line that stays", "test accuracy"):
        assert part in text


def test_elsewhere_than_on_a_terminal_there_are_no_control_characters():
    assert "\x1b" not in shown(terminal=False)[1]


def test_only_the_first_worker_shows_anything(capsys):
    display = display_for(False)
    assert isinstance(display, Silent)
    display.begin([("task", "x")], 0, 1)
    display.step(1, {"loss": 1.0})
    display.say("x")
    display.end()
    display.summary([("x", "y")])
    assert capsys.readouterr().out == ""
