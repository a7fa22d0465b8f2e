"""A run in a terminal."""

import io

from rich.console import Console

from adamesh.report.history import History
from adamesh.report.sparkline import sparkline
from adamesh.report.terminal import view, watch
from tests.unit.report.folders import append, end, event, make_run, step_line


def shown(folder, width=100):
    history = History(folder)
    history.refresh()
    history.close()
    file = io.StringIO()
    Console(file=file, width=width, highlight=False, markup=False).print(view(history, width))
    return file.getvalue()


def test_a_rising_line_rises_and_a_level_one_is_level():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], width=8, height=1) == ["▁▂▃▄▅▆▇█"]
    assert sparkline([1, 8], width=8, height=2) == [" █", "▁█"]
    assert sparkline([3, 3, 3], width=8, height=1) == ["▁▁▁"]


def test_more_values_than_columns_are_averaged_and_none_is_left_out():
    assert sparkline([0, 2, 4, 6, 8, 6, 10, 4], width=4, height=1) == ["▁▆██"]


def test_what_spans_decades_is_drawn_by_its_logarithm():
    assert sparkline([1, 10, 100, 1000], width=4, height=1) == ["▁▃▆█"]


def test_what_is_not_finite_is_marked():
    assert sparkline([1, None, 2], width=3, height=2) == ["  █", "▁×█"]
    assert sparkline([None], width=3, height=1) == ["×"]
    assert sparkline([], width=3, height=2) == ["", ""]


def test_it_shows_where_the_run_is_and_what_happened(tmp_path):
    folder = make_run(tmp_path / "my run")
    append(folder, "events.jsonl", event(12, "worker-lost", "worker 2 lost (killed) at step 12"))
    text = shown(folder)
    for words in ("my run", "40 of 100", "1.2 s", "3,200", "step 12  worker-lost: worker 2 lost", "not ended", "█"):
        assert words in text


def test_names_and_messages_cannot_command_the_terminal(tmp_path):
    folder = make_run(tmp_path / "a\x1b]0;hit\x07b")
    append(folder, "events.jsonl", event(1, "skip\x1b[2J", "[red]no[/red] \x1b[31m\x9b1m\n"))
    text = shown(folder)
    assert not any(ord(character) < 32 and character != "\n" for character in text)
    assert "\x9b" not in text
    assert "[red]no[/red]" in text


def test_it_ends_when_the_run_does_and_leaves_its_last_look(tmp_path):
    folder = make_run(tmp_path / "run", steps=99)
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False, markup=False, force_terminal=True)

    def meanwhile(_seconds):
        append(folder, "metrics.jsonl", step_line(100))
        end(folder, 100)

    history = History(folder)
    watch(history, console, meanwhile)
    history.close()
    assert "finished" in file.getvalue()


def test_a_run_without_a_step_fits_a_narrow_terminal(tmp_path):
    assert "no step yet" in shown(make_run(tmp_path / "run", steps=0), width=30)
