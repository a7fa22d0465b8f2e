"""The page as text; how it looks and works is for a browser (tests/integration/test_pages.py)."""

import json
import re
from datetime import datetime
from html.parser import HTMLParser

import pytest

from adamesh.cli.main import main
from adamesh.report.history import History
from adamesh.report.page import page
from tests.unit.report.folders import ENDING, MARKUP, append, end, event, make_run

NOW = datetime(2026, 11, 28, 12)


def page_of(*folders):
    histories = [History(folder) for folder in folders]
    for history in histories:
        history.refresh()
        history.close()
    return page(histories, NOW)


class Elements(HTMLParser):
    """Every element of a page, and its data block."""

    def __init__(self, text):
        super().__init__()
        self.found, self.data, self._in_data = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._in_data = dict(attrs).get("id") == "data"

    def handle_endtag(self, tag):
        self._in_data = False

    def handle_data(self, data):
        self.data += data if self._in_data else ""


def test_nothing_in_the_page_points_elsewhere(tmp_path):
    elements = Elements(page_of(make_run(tmp_path / "run"))).found
    pointing = [value for _, attributes in elements for name, value in attributes.items() if name in ("src", "href")]
    assert pointing == ["data:,"]
    policies = [attributes["content"] for _, attributes in elements if "http-equiv" in attributes]
    assert policies[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policies[0]


def test_names_settings_and_messages_are_text_and_never_markup(tmp_path):
    folder = make_run(tmp_path / MARKUP, settings=f"data = {json.dumps(MARKUP)}")
    append(folder, "events.jsonl", event(3, MARKUP, ENDING))
    append(folder, "metrics.jsonl", {"step": 41, "loss": 1.0, MARKUP: 1.0, ENDING: 2.0})
    other = make_run(tmp_path / "other")
    usual = {tag for tag, _ in Elements(page_of(make_run(tmp_path / "usual"))).found}
    single, both = Elements(page_of(folder)), Elements(page_of(folder, other))
    for elements in (single, both):
        tags = [tag for tag, _ in elements.found]
        assert set(tags) <= usual | {"span", "strong", "details", "summary"}
        assert tags.count("script") == 2
        assert json.loads(elements.data)["runs"][0]["events"] == [[3, MARKUP, ENDING, "note"]]


def test_what_the_doctor_finds_stands_in_the_report_and_a_healthy_run_is_called_so(tmp_path, capsys):
    ill, well = make_run(tmp_path / "ill"), make_run(tmp_path / "well")
    append(ill, "events.jsonl", event(7, "worker-lost", ENDING))
    assert main(["report", str(ill), str(well), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    section = text[text.index('<section id="diagnosis"') : text.index('<section id="curves"')]
    assert "<strong>lost workers</strong>" in section
    assert "Healthy: none of NaN batches, " in section
    assert "<script>" not in section


def test_a_run_too_long_to_be_examined_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("adamesh.report.diagnosis._MOST_BYTES", 10)
    assert main(["report", str(make_run(tmp_path / "run")), "--out", str(tmp_path / "page.html")]) == 0
    assert "<code>adamesh doctor RUN</code>" in (tmp_path / "page.html").read_text()


def test_settings_that_differ_come_first_and_are_marked(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", lr=0.5)
    text = page_of(first, second)
    marked = re.findall(r'<tr class="differs"><th scope="row">([^<]*)</th><td>([^<]*)</td><td><strong>([^<]*)', text)
    assert marked == [("optim.lr", "0.001", "0.5")]
    assert text.index("optim.lr") < text.index("nproc")


def test_runs_that_have_ended_and_runs_that_have_not_stand_side_by_side(tmp_path):
    first, second = make_run(tmp_path / "first", steps=100), make_run(tmp_path / "second", steps=0)
    end(first, 100)
    text = page_of(first, second)
    assert '<th scope="row">stands</th><td>finished</td><td>no step yet</td>' in text


def test_the_command_writes_one_file_into_the_run_or_where_it_is_told(tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert "open it in a browser" in capsys.readouterr().out
    pages = [path.read_text() for path in (folder / "report.html", tmp_path / "page.html")]
    assert all(text.startswith("<!doctype html>") for text in pages)


@pytest.mark.parametrize("argv", [["report"], ["report", "nowhere"], ["watch"], ["watch", "nowhere"]])
def test_without_a_run_there_is_one_line_and_code_2(argv, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("options", [["--terminal", "--page"], ["--terminal", "--port", "80"], ["--port", "70000"]])
def test_views_that_exclude_each_other_and_ports_that_are_none_are_refused(options, tmp_path, capsys):
    assert main(["watch", str(make_run(tmp_path / "run")), *options]) == 2
    assert "--port" in capsys.readouterr().err
