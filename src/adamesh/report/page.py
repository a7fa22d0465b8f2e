"""One HTML page of runs: everything in it, nothing from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from html import escape
from importlib import resources
from typing import Any

from adamesh.report.history import History
from adamesh.report.told import told

__all__ = ["page", "policy"]

_NUM_COLOURS = 8
_WORDS = {"trouble": "✖", "arrival": "▲", "note": "●"}
# Where a run lies makes it no other run.
_NOT_COMPARED = {"out"}


def page(
    histories: Sequence[History],
    now: datetime,
    *,
    live: bool = False,
    diagnoses: Sequence[Mapping[str, Any] | None] = (),
) -> str:
    """The page, as of now.

    What comes from runs (names, settings, messages) stands in it escaped, and is data, not markup, to its script.

    Args:
        histories: of the runs; the first one's configuration is what others are compared with.
        now: for its foot.
        live: its script asks where it came from for what is new; else it asks nobody for anything.
        diagnoses: of the runs, as the doctor tells them; None for one that was too long; none at all: not shown.
    """
    known = told(histories)
    runs = known["runs"]
    title = runs[0]["name"] if len(runs) == 1 else f"{len(runs)} runs"
    kind = "live" if live else "report"
    # Served pages have theirs in a header, which knows more directives.
    head = "" if live else f'<meta http-equiv="Content-Security-Policy" content="{escape(policy(live=False))}">'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{head}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{escape(title)} · adamesh {kind}</title>
<link rel="icon" href="data:,">
<style>{_text("page.css")}</style>
</head>
<body data-kind="{kind}">
<header>
<p class="kind">adamesh {kind}</p>
<h1>{escape(title)}</h1>
{_standing(runs[0]) if len(runs) == 1 else ""}
</header>
<main>
<section id="summary" aria-labelledby="summary-title"><h2 id="summary-title">Summary</h2>{_summary(runs)}</section>
{_diagnoses(runs, diagnoses) if diagnoses else ""}
<section id="curves" aria-labelledby="curves-title"><h2 id="curves-title">Curves</h2>
<noscript><p>Curves are drawn by the page's own script, which does not run here. All else is below.</p></noscript>
</section>
<section id="events" aria-labelledby="events-title"><h2 id="events-title">Events</h2>{_events(runs)}</section>
<section id="configuration" aria-labelledby="config-title"><h2 id="config-title">Configuration</h2>
{_configuration(histories)}</section>
</main>
<footer><p>Written {now:%Y-%m-%d %H:%M:%S} by adamesh {kind}. This page loads nothing from anywhere else.</p></footer>
<script type="application/json" id="data">{_json(known)}</script>
<script>{_script()}</script>
</body>
</html>
"""


def policy(*, live: bool) -> str:
    """The Content-Security-Policy under which the page works: its own style and script, by their hashes; no other."""
    allowed = {
        "default-src": "'none'",
        "style-src": _hash(_text("page.css")),
        "script-src": _hash(_script()),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    if live:
        allowed |= {"connect-src": "'self'", "frame-ancestors": "'none'"}
    return "; ".join(f"{what} {where}" for what, where in allowed.items())


@cache
def _text(name: str) -> str:
    return resources.files("adamesh.report").joinpath(name).read_text(encoding="utf-8")


def _script() -> str:
    return _text("numbers.js") + _text("chart.js") + _text("page.js")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    """For the inside of a script element: nothing in it can end the element, or begin another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _standing(run: Mapping[str, Any]) -> str:
    done, total = run["step"], run["total"]
    state = "ended" if run["ended"] else "open"
    goes_on = total and not run["ended"]
    bar = f'<progress max="{max(1, total)}" value="{done}" aria-label="steps"></progress>' if goes_on else ""
    return f'<p class="standing {state}" role="status">{escape(run["word"])}</p>{bar}'


def _summary(runs: Sequence[Mapping[str, Any]]) -> str:
    if len(runs) == 1:
        tiles = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in runs[0]["facts"])
        return f'<dl class="tiles">{tiles}</dl>'
    labels = dict.fromkeys(label for run in runs for label, _ in run["facts"])
    rows = [("stands", [run["word"] for run in runs])]
    rows += [(label, [dict(run["facts"]).get(label, "") for run in runs]) for label in labels]
    return _table("of each run", _run_heads(runs), [_row(label, cells) for label, cells in rows])


def _diagnoses(runs: Sequence[Mapping[str, Any]], diagnoses: Sequence[Mapping[str, Any] | None]) -> str:
    told = []
    for number, (run, diagnosis) in enumerate(zip(runs, diagnoses, strict=True)):
        name = f"<h3>{_swatch(number)}{escape(run['name'])}</h3>" if len(runs) > 1 else ""
        told.append(f'<div class="diagnosis">{name}{_diagnosis(diagnosis)}</div>')
    title = '<h2 id="diagnosis-title">Diagnosis</h2>'
    return f'<section id="diagnosis" aria-labelledby="diagnosis-title">{title}{"".join(told)}</section>'


def _diagnosis(diagnosis: Mapping[str, Any] | None) -> str:
    if diagnosis is None:
        return "<p>Too long to be examined for a page: <code>adamesh doctor RUN</code> does.</p>"
    if diagnosis["healthy"]:
        return f"<p>Healthy: none of {escape(', '.join(diagnosis['not_there']))}.</p>"
    return "".join(map(_finding, diagnosis["findings"]))


def _finding(found: Mapping[str, Any]) -> str:
    because = found["because_of"]
    cause = f"<p>Most likely a consequence of: {escape(because)}.</p>" if because else ""
    evidence = "".join(f"<li>{escape(line)}</li>" for line in found["evidence"])
    tries = ""
    # What to try is said once, where it begins.
    for advice in () if because else found["advice"]:
        command = f"<br><code>{escape(advice['command'])}</code>" if advice["command"] else ""
        tries += f"<li>Try: {escape(advice['what'])}{command}</li>"
    saw = f"<p><strong>{escape(found['symptom'])}</strong>: {escape(found['saw'])}</p>"
    return f"{saw}{cause}<ul>{evidence}{tries}</ul>"


def _events(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for number, run in enumerate(runs):
        name = f"<td>{_swatch(number)}{escape(run['name'])}</td>" if len(runs) > 1 else ""
        for step, kind, message, mark in run["events"]:
            sign = f'<span class="mark {mark}" aria-hidden="true">{_WORDS[mark]}</span>'
            cells = f"<td>{step:,}</td><td>{sign} {escape(kind)}</td><td>{escape(message)}</td>"
            rows.append(f"<tr>{name}{cells}</tr>")
    left_out = sum(run["num_events"] - len(run["events"]) for run in runs)
    before = f"<p>{left_out:,} earlier ones are left out.</p>" if left_out else ""
    none = "" if rows else '<p class="none">None: nothing was lost, skipped or rolled back.</p>'
    heads = [*(["run"] if len(runs) > 1 else []), "step", "event", "what"]
    hidden = "" if rows else " hidden"
    return before + none + _table("in order", [escape(head) for head in heads], rows, hidden)


def _configuration(histories: Sequence[History]) -> str:
    keys = dict.fromkeys(key for history in histories for key in history.config)
    told_rows = {key: [_setting(history.config.get(key)) for history in histories] for key in keys}
    differing = [key for key, cells in told_rows.items() if key not in _NOT_COMPARED and len(set(cells)) > 1]
    if len(histories) == 1:
        only = [_row(key, cells) for key, cells in told_rows.items()]
        return _table("config.toml; what it leaves out is not set", ["value"], only)
    heads = _run_heads([{"name": history.name} for history in histories])
    rows = [_row(key, told_rows[key], differs=True) for key in differing]
    rest = [_row(key, cells) for key, cells in told_rows.items() if key not in differing]
    shown = _table("that differ", heads, rows) if rows else "<p>All keys have the same values.</p>"
    same = f"<summary>{len(rest)} that are the same, or say where a run lies</summary>"
    return f"{shown}<details>{same}{_table('all others', heads, rest)}</details>"


def _run_heads(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"{_swatch(number)}{escape(run['name'])}" for number, run in enumerate(runs)]


def _swatch(number: int) -> str:
    return f'<span class="swatch c{number % _NUM_COLOURS}" aria-hidden="true"></span>'


def _row(label: str, cells: Sequence[str], *, differs: bool = False) -> str:
    marked = ' class="differs"' if differs else ""
    usual = cells[0]
    inside = "".join(
        f"<td><strong>{escape(cell)}</strong></td>" if differs and cell != usual else f"<td>{escape(cell)}</td>"
        for cell in cells
    )
    return f'<tr{marked}><th scope="row">{escape(label)}</th>{inside}</tr>'


def _table(caption: str, heads: Sequence[str], rows: Sequence[str], attributes: str = "") -> str:
    """In a box that scrolls by itself, so that the page does not on a phone."""
    # Rows that begin with a head of their own have nothing above it.
    corner = "<td></td>" if rows and rows[0].startswith(("<tr><th", '<tr class="differs"><th')) else ""
    titles = corner + "".join(f'<th scope="col">{head}</th>' for head in heads)
    table = f"<table><caption>{caption}</caption><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="scrolls" tabindex="0" role="region" aria-label="{caption}"{attributes}>{table}</div>'


def _setting(value: object) -> str:
    """As a configuration file would say it."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_setting, value))}]"
    return str(value)
