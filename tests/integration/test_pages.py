"""The pages of `report` and `watch` in a real browser: Debian's chromium, if the machine has one."""

import shutil
import threading

import pytest
from playwright.sync_api import sync_playwright

from adamesh.cli.main import main
from adamesh.report.history import History
from adamesh.report.serve import PageServer
from tests.unit.report.folders import ENDING, MARKUP, append, end, event, make_run, step_line

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a window of its own, and all that it said and asked for."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def count(self, selector):
        return self.page.locator(selector).count()


@pytest.fixture
def visit(browser):
    """Opens windows; whatever a page said to its console fails the test."""
    visits = []

    def open_window(**options):
        visits.append(Visit(browser, **options))
        return visits[-1]

    yield open_window
    for each in visits:
        each.context.close()
    assert [words for each in visits for words in each.said] == []


@pytest.fixture
def serving():
    """Serves a run's live page; returns the link."""
    servers = []

    def serve(folder):
        history = History(folder)
        server = PageServer(history)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread, history))
        return server.link

    yield serve
    for server, thread, history in servers:
        server.shutdown()
        thread.join()
        server.server_close()
        history.close()


def eventful(folder):
    make_run(folder)
    append(folder, "metrics.jsonl", step_line(41, loss=None), step_line(42))
    append(folder, "events.jsonl", event(12, "worker-lost", "worker 2 lost"), event(20, "worker-joined", "worker 3"))
    return folder


def test_a_report_shows_curves_and_events_and_asks_for_nothing(tmp_path, visit):
    file = tmp_path / "report.html"
    assert main(["report", str(eventful(tmp_path / "run")), "--out", str(file)]) == 0
    window = visit()
    window.page.goto(file.as_uri())
    assert window.asked == [file.as_uri()]
    assert window.count("figure.chart") == 7
    assert window.count("polyline.line") >= 12
    assert window.count("figure.chart:first-child .event") == 2
    assert window.count("figure.chart:first-child .bad title") == 1
    assert window.page.locator("#events tbody").inner_text().split("\n")[0] == "12\t✖ worker-lost\tworker 2 lost"


def test_a_chart_can_be_read_by_keyboard_and_as_a_table(tmp_path, visit):
    file = tmp_path / "report.html"
    main(["report", str(eventful(tmp_path / "run")), "--out", str(file)])
    window = visit()
    window.page.goto(file.as_uri())
    chart = window.page.locator("figure.chart").first
    chart.locator("svg").focus()
    window.page.keyboard.press("Home")
    window.page.keyboard.press("ArrowRight")
    assert chart.locator(".tip").inner_text().startswith("step 2\n")
    assert "training, each step 1\n" in chart.locator(".tip").inner_text()
    assert "from 2 at step 1 to 0.04762 at step 42" in chart.locator("desc").text_content()
    chart.locator("summary").click()
    assert chart.locator("tbody tr").first.inner_text() == "training, each step\tsteps 1 to 2\t1.5\t1\t2"
    scale = chart.locator("button.scale").inner_text()
    chart.locator("button.scale").click()
    assert {scale, chart.locator("button.scale").inner_text()} == {"log scale", "linear scale"}


def test_one_slow_step_does_not_flatten_the_others_and_is_told_all_the_same(tmp_path, visit):
    folder = make_run(tmp_path / "run", steps=98)
    append(folder, "metrics.jsonl", step_line(99, step_s=9.0), step_line(100))
    file = tmp_path / "report.html"
    main(["report", str(folder), "--out", str(file)])
    window = visit()
    window.page.goto(file.as_uri())
    chart = window.page.locator("figure.chart", has_text="Time of a step")
    assert chart.locator(".beyond title").text_content() == "whole step: 9 s at step 99"
    assert "above the scale, up to 9 s" in chart.locator(".legend").inner_text()
    assert chart.locator("text.tick").first.text_content() == "0 s"
    assert "ms" in chart.locator("text.tick").nth(1).text_content()
    chart.locator("button.scale").click()
    assert chart.locator(".beyond").count() == 0


def test_several_runs_share_charts_and_one_can_be_left_out(tmp_path, visit):
    file = tmp_path / "report.html"
    first, second = make_run(tmp_path / "first", steps=100), make_run(tmp_path / "second", steps=30, lr=0.5)
    end(first, 100)
    main(["report", str(first), str(second), "--out", str(file)])
    window = visit()
    window.page.goto(file.as_uri())
    rate = window.page.locator("figure.chart", has_text="Learning rate")
    assert rate.locator("polyline").count() == 2
    assert rate.locator(".legend").inner_text() == "first\nsecond"
    window.page.get_by_role("checkbox", name="second").uncheck()
    assert rate.locator("polyline").count() == 1
    window.page.locator("#axis").select_option("samples")
    assert rate.locator("text", has_text="samples").count() == 1
    assert window.page.locator("tr.differs th").all_inner_texts() == ["optim.lr"]


def test_pages_fit_a_phone_in_the_dark(tmp_path, visit):
    file = tmp_path / "report.html"
    runs = [str(eventful(tmp_path / name)) for name in ("a-run-with-a-long-name" * 4, "b")]
    main(["report", *runs, "--out", str(file)])
    window = visit(viewport={"width": 360, "height": 740}, color_scheme="dark")
    window.page.goto(file.as_uri())
    assert window.page.evaluate("document.documentElement.scrollWidth") == 360
    assert window.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 19, 23)"


def test_a_watched_run_grows_before_ones_eyes(tmp_path, visit, serving):
    folder = make_run(tmp_path / "run", steps=10)
    window = visit()
    link = serving(folder)
    window.page.goto(link)
    origin = link.partition("/?")[0]
    assert window.page.url == f"{origin}/"
    assert window.page.evaluate("document.cookie") == ""
    assert window.count(".event") == 0
    append(folder, "metrics.jsonl", *(step_line(step) for step in range(11, 51)))
    append(folder, "events.jsonl", event(30, "worker-lost", "worker 1 lost"))
    window.page.wait_for_selector("figure.chart:first-child .event.trouble", state="attached")
    assert "50 of 100" in window.page.locator(".tiles").inner_text()
    assert "worker 1 lost" in window.page.locator("#events tbody").inner_text()
    end(folder, 50, stopped="interrupted")
    window.page.wait_for_selector(".standing.ended")
    assert window.page.locator(".standing").inner_text() == "interrupted"
    assert all(asked.startswith(origin) for asked in window.asked)


@pytest.mark.parametrize("command", ["report", "watch"])
def test_a_run_full_of_markup_runs_nothing(command, tmp_path, visit, serving):
    folder = make_run(tmp_path / MARKUP, settings="data = '''" + MARKUP + "'''")
    append(folder, "events.jsonl", event(3, ENDING, MARKUP))
    append(folder, "metrics.jsonl", step_line(41, **{MARKUP: 1.0, ENDING: 1.0}))
    window = visit()
    if command == "report":
        main(["report", str(folder), "--out", str(tmp_path / "report.html")])
        window.page.goto((tmp_path / "report.html").as_uri())
    else:
        window.page.goto(serving(folder))
        append(folder, "events.jsonl", event(4, MARKUP, ENDING))
        window.page.wait_for_selector("#events tbody tr:nth-child(2)")
    assert window.page.title() == f"{MARKUP} · adamesh {'live' if command == 'watch' else 'report'}"
    assert window.page.locator("h1").inner_text() == MARKUP
    assert window.count("img") == 0
    assert window.count("script") == 2
    assert ENDING in window.page.locator("#events tbody").inner_text()
