"""A verdict on learning rates, for people and for programs: a sketch of the curve, a picture, find-lr.json."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from adamesh.train.files import json_line, write_whole
from adamesh.tune.rate.curve import Curve
from adamesh.tune.rate.verdict import Marks, Verdict

__all__ = ["plot", "print_verdict", "write_record"]

_ROWS_PER_DECADE = 3
_BAR = 40


def print_verdict(console: Console, verdict: Verdict) -> None:
    """A line for every third of a decade, what was noticed there, and the verdict in a sentence."""
    if verdict.marks is not None:
        console.print(_sketch(verdict, verdict.marks))
    if len(verdict.by_seed) > 1:
        alone = (f"seed {seed} {'unsure' if rate is None else f'{rate:g}'}" for seed, rate in verdict.by_seed.items())
        console.print(f"each seed alone: {', '.join(alone)}", soft_wrap=True)
    if verdict.rate is None:
        console.print(f"unsure: {verdict.reason}. {verdict.remedy[:1].upper()}{verdict.remedy[1:]}.", soft_wrap=True)
    else:
        console.print(f"suggested: {verdict.rate:g}, because {verdict.reason}", soft_wrap=True)


def write_record(verdict: Verdict, curves: Sequence[Curve], run: dict[str, Any], file: Path) -> None:
    """find-lr.json, whole or not at all.

    Args:
        verdict: on the curves.
        curves: each seed's.
        run: what was trained, and the command to go on with.
        file: where to.
    """
    marks = verdict.marks
    seen = {} if marks is None else _seen(marks)
    record = {
        **run,
        "lr": verdict.rate,
        "reason": verdict.reason,
        "remedy": verdict.remedy or None,
        "by_seed": {str(seed): rate for seed, rate in verdict.by_seed.items()},
        **{name: verdict.rates[step] for name, step in seen.items()},
        "start_loss": None if marks is None else marks.start,
        "lowest_loss": None if marks is None else marks.lowest,
        "noise": None if marks is None else marks.noise,
        "fall_by_chance": None if marks is None else marks.by_chance,
        "learnt": None if verdict.learnt is None else asdict(verdict.learnt),
        "smoothed": None if marks is None else marks.smooth,
        "curves": [asdict(curve) for curve in curves],
    }
    write_whole(file, json_line(record) + "\n")


def plot(verdict: Verdict, curves: Sequence[Curve], title: str, file: Path) -> str:
    """Write the picture; returns a line that says where, or why there is none."""
    marks = verdict.marks
    if marks is None:
        return "no plot: the curve is too short"
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed (pip install 'adamesh[plots]')"
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for curve in curves:
        above.plot(curve.rates[: len(curve.losses)], curve.losses, color="0.7", linewidth=0.8)
        steps = [look.step for look in curve.looks]
        gaps = [look.mismatched - look.loss for look in curve.looks]
        below.plot([curve.rates[step] for step in steps], gaps, color="C2", marker=".", linewidth=0.8)
    above.plot(verdict.rates[: len(marks.smooth)], marks.smooth, color="C0", linewidth=2)
    above.axhspan(marks.start - marks.by_chance, marks.start, color="C0", alpha=0.15, linewidth=0)
    for color, (name, step) in zip(("C1", "C4", "C3"), _seen(marks).items(), strict=False):
        above.axvline(
            verdict.rates[step], color=color, linestyle=":", label=f"{name.replace('_', ' ')} {verdict.rates[step]:.2g}"
        )
    if verdict.rate is not None:
        above.axvline(verdict.rate, color="k", label=f"suggested {verdict.rate:g}")
    margin = 0.1 * (max(marks.smooth) - marks.lowest) + 2 * marks.noise
    above.set_ylim(marks.lowest - margin, max(marks.smooth) + margin)
    above.set_ylabel("training loss")
    above.set_title(title + (": unsure" if verdict.rate is None else ""), fontsize="medium")
    above.legend(fontsize="small", loc="lower left")
    below.axhline(0, color="0.5", linewidth=0.8)
    below.set_yscale("symlog", linthresh=0.1)
    below.set_ylabel("learnt of inputs")
    below.set_xlabel("learning rate")
    below.set_xscale("log")
    for axis in (above, below):
        axis.grid(alpha=0.3)
    figure.savefig(file, dpi=110)
    return f"plot in {file}"


def _seen(marks: Marks) -> dict[str, int]:
    """Steps at which something was seen, by what it is called."""
    seen = {"steepest": marks.steepest_at, "lowest": marks.lowest_at}
    return seen if marks.broken_at is None else seen | {"half_lost": marks.broken_at}


def _sketch(verdict: Verdict, marks: Marks) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("loss", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    rates, smooth = verdict.rates, marks.smooth
    ratio = (rates[-1] / rates[0]) ** (1 / (len(rates) - 1))
    per_row = 10 ** (1 / _ROWS_PER_DECADE)
    top = max(smooth)
    begin = 0
    while begin < len(smooth):
        end = next((step for step in range(begin, len(smooth)) if rates[step] >= rates[begin] * per_row), len(smooth))
        names = [name.replace("_", " ") for name, step in _seen(marks).items() if begin <= step < end]
        if verdict.rate is not None and rates[begin] <= verdict.rate < rates[end - 1] * ratio:
            names.append("suggested")
        middle = smooth[(begin + end) // 2]
        bar = "█" * max(1, round(_BAR * (middle - marks.lowest) / (top - marks.lowest or 1)))
        table.add_row(f"{rates[begin]:.1e}", f"{middle:.4g}", bar, f"← {', '.join(names)}" if names else "")
        begin = max(end, begin + 1)
    return table
