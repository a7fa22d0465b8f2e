"""``adamesh bench plans``: what ``adamesh plan --json`` has foretold, beside what is measured here.

The forecasts come in a file, and the plans' settings with them: workers train the task with each, on hosts joined by
links of those speeds (network namespaces, as `adamesh.bench.link` makes them) or on loopback, taking turns.
"""

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adamesh.bench.host_workers import run_on_hosts
from adamesh.bench.hosts import Hosts
from adamesh.bench.laps import collected, made
from adamesh.bench.machine import Machine
from adamesh.bench.options import PlansOptions
from adamesh.bench.plans_worker import Course, Seen
from adamesh.errors import ConfigurationError
from adamesh.train.config import load_config, write_config
from adamesh.train.folder import free_folder

__all__ = ["Row", "bench_plans"]

_WORKER = "adamesh.bench.plans_worker"
_LINK = re.compile(r"(?P<rate>\d+(\.\d+)?)(?P<unit>[kmg]bit)(\+64kb)?")
_MBIT = {"kbit": 1e-3, "mbit": 1.0, "gbit": 1e3}


@dataclass(frozen=True)
class Row:
    """One plan over one link: foretold and measured."""

    link: str
    plan: str
    step_s: tuple[float, float]
    bytes_per_step: tuple[float, float]
    """Up and down."""
    peak_bytes: tuple[int, int | None]
    """Of torch's allocator; None where it was not measured."""
    recommended: bool


def bench_plans(options: PlansOptions, console: Console) -> list[Row]:
    """Measure every plan of the file over every link of it, print a table and write JSON.

    Raises:
        ConfigurationError: the file is not one of ``adamesh plan --json``, or hosts cannot be made here.
        AdameshError: a worker failed; one line says which and why.
    """
    foretold = _read(options.file)
    config = load_config(options.file.with_suffix(".toml"))
    machine = Machine.observed()
    folder = options.out or free_folder("plans", datetime.now(), "bench")
    rows: list[Row] = []
    for link, forecast in foretold["links"].items():
        console.print(f"measuring over {link}")
        plans = [plan for plan in forecast["plans"] if not options.plans or plan["plan"] in options.plans]
        place = folder / link.replace("/", "-")
        place.mkdir(parents=True, exist_ok=True)
        write_config(config, place / "config.toml")
        course = Course(
            plans=tuple({"name": plan["plan"], "settings": plan["settings"]} for plan in plans),
            rounds=options.rounds,
            steps=options.steps,
            memory=options.memory and not rows,
        )
        seen = _measured(course, link, foretold["world"], place)
        known = {row.plan: row.peak_bytes[1] for row in rows}
        rows += [_row(link, forecast, plan, seen[plan["plan"]], known.get(plan["plan"])) for plan in plans]
    _print(console, rows)
    console.print(machine.line(), soft_wrap=True)
    found = {"bench": "plans", "machine": asdict(machine), "task": foretold["task"], "rows": [asdict(r) for r in rows]}
    (folder / "plans.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {folder / 'plans.json'}", soft_wrap=True)
    return rows


def _measured(course: Course, link: str, world: int, folder: Path) -> Mapping[str, list[Seen]]:
    """By plan, by worker."""
    if link == "loopback":
        answers = made(_WORKER, course, world, folder)
    else:
        found = _LINK.fullmatch(link)
        if found is None:
            raise ConfigurationError(f"link {link}: can be measured as a rate alone, as 100mbit, or loopback")
        with Hosts(world, float(found["rate"]) * _MBIT[found["unit"]]) as hosts:
            file = folder / "course.json"
            file.write_text(json.dumps(asdict(course)), encoding="utf-8")
            run_on_hosts(hosts, _WORKER, [str(file)], folder / "logs")
        answers = collected(folder / "course.json", world)
    by_plan: dict[str, list[Seen]] = {}
    for answer in answers:
        for plain in answer:
            by_plan.setdefault(plain["plan"], []).append(Seen(**plain))
    return by_plan


def _row(
    link: str, forecast: Mapping[str, Any], plan: Mapping[str, Any], seen: Sequence[Seen], known_peak: int | None
) -> Row:
    sent = statistics.mean(s.bytes_up_per_step + s.bytes_down_per_step for s in seen)
    peaks = [s.peak_bytes for s in seen if s.peak_bytes is not None]
    return Row(
        link=link,
        plan=plan["plan"],
        step_s=(plan["step_s"], statistics.median(seen[0].step_s)),
        bytes_per_step=(plan["bytes_up_per_step"] + plan["bytes_down_per_step"], sent),
        peak_bytes=(plan["memory"]["peak"], max(peaks) if peaks else known_peak),
        recommended=forecast["recommended"] == plan["plan"],
    )


def _print(console: Console, rows: Sequence[Row]) -> None:
    table = Table(
        "link", "plan", "step", "measured", "", "bytes", "measured", "", "peak", "measured", "", box=SIMPLE_HEAD
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in rows:
        fastest = min(other.step_s[1] for other in rows if other.link == row.link)
        table.add_row(
            row.link,
            row.plan + (f" <- recommended, {row.step_s[1] / fastest:.2f} x the best" if row.recommended else ""),
            *(f"{seconds * 1e3:.1f} ms" for seconds in row.step_s),
            _off(*row.step_s),
            *(f"{sent / 1e3:,.1f} kB" for sent in row.bytes_per_step),
            _off(*row.bytes_per_step),
            *("" if peak is None else f"{peak / 2**20:.2f} MiB" for peak in row.peak_bytes),
            "" if row.peak_bytes[1] is None else _off(*row.peak_bytes),
        )
    console.print(table)


def _off(foretold: float, measured: float | None) -> str:
    return f"{(foretold - measured) / measured:+.0%}" if measured else ""


def _read(file: Path) -> Any:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        plain["links"], plain["world"], plain["task"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{file}: is no file of adamesh plan --json ({error}); make one first") from error
    return plain
