"""A comparison for people: a table, what may be said of the differences, and how that was found out."""

from collections.abc import Sequence
from math import isfinite

from rich import box
from rich.console import Console
from rich.table import Table

from adamesh.train.best import is_better_high
from adamesh.train.settings import RunConfig
from adamesh.tune.results import CONFIDENCE, ArmResult
from adamesh.tune.statistics import Interval

__all__ = ["method", "print_comparison"]


def print_comparison(console: Console, results: Sequence[ArmResult], config: RunConfig) -> None:
    """The table, a line for each difference and each failure, and the method.

    Args:
        console: where to.
        results: of the arms, the one that others are compared with first.
        config: of the first arm: its ``best_metric`` is what is judged.
    """
    metric = config.best_metric
    others = [name for name in ("loss", "accuracy", "auc") if name != metric and _has(results, name)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("", overflow="fold", min_width=12)
    tested = (f"test\n{name.replace('_', ' ')}" for name in (metric, *others))
    for column in (*tested, "seeds", "samples", "seconds", "bytes\na step", "bytes\nin all"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(*_cells(result, [metric, *others]))
    console.print(table)
    first, *rest = results
    for result in rest:
        console.print(_sentence(result, first, config, len(rest)), soft_wrap=True)
    for result in results:
        for trial in result.trials:
            if not trial.finished:
                why = trial.failure or "not run"
                console.print(f"{result.arm.name}, seed {trial.seed} failed: {why}", soft_wrap=True)
    for line in method(results, metric):
        console.print(line, style="dim", soft_wrap=True)


def method(results: Sequence[ArmResult], metric: str) -> list[str]:
    """How figures and verdicts came about."""
    compared = len(results) - 1
    legend = f"± and [ ]: {CONFIDENCE:.0%} intervals of the mean over seeds, Student's t. seconds: in steps, without "
    legend += "evaluations. bytes: up and down; a step's are one worker's, the mean over workers."
    lines = [legend]
    if compared:
        corrected = 1 - (1 - CONFIDENCE) / compared
        lines.append(
            f"differences: of the test {metric} after the last step, from the first arm's with the same seed (paired), "
            f"t intervals; {compared} compared, so each at {100 * corrected:.4g}% (Bonferroni). within noise: "
            "0 is inside."
        )
    return lines


def _cells(result: ArmResult, metrics: Sequence[str]) -> list[str]:
    finished, num_trials = result.finished, len(result.trials)
    cells = [result.arm.name, *(_mean(result.interval(name)) for name in metrics)]
    cells.append(str(num_trials) if len(finished) == num_trials else f"{len(finished)} of {num_trials}")
    if not finished:
        return [*cells, "-", "-", "-", "-"]
    samples, seconds, step, total = (
        sum(values) / len(finished)
        for values in zip(*((t.samples, t.seconds, t.bytes_per_step, t.bytes_total) for t in finished), strict=True)
    )
    return [*cells, f"{samples:,.0f}", f"{seconds:.1f}", _bytes(step), _bytes(total)]


def _sentence(result: ArmResult, first: ArmResult, config: RunConfig, num_compared: int) -> str:
    metric = config.best_metric
    difference = result.difference(first, metric, num_compared)
    if difference is None:
        return f"{result.arm.name}: no seed that both it and {first.arm.name} have finished"
    interval = difference.interval
    verdict = difference.verdict
    if verdict == "differs":
        better = (interval.mean > 0) == is_better_high(metric, config.best_is)
        verdict = f"{'better' if better else 'worse'} than {first.arm.name}"
    spread = f" [{interval.low:+.4f} to {interval.high:+.4f}]" if isfinite(interval.low) else ""
    return f"{result.arm.name}: {metric} {interval.mean:+.4f}{spread}: {verdict}"


def _has(results: Sequence[ArmResult], metric: str) -> bool:
    return any(result.interval(metric) is not None for result in results)


def _mean(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.mean:.4f}" + (f"\n± {interval.half_width:.4f}" if isfinite(interval.half_width) else "")


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:,.3g} {unit}" if number < 1000 else f"{number:,.0f} {unit}"
