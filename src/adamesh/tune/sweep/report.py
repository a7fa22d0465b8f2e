"""What a sweep has found: the best trials as a table, sweep.json, and Optuna's pictures."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from adamesh.train.config import config_hash
from adamesh.train.files import json_line, write_whole
from adamesh.tune.sweep.study import StudyBook, failure_of
from adamesh.tune.sweep.sweep import Proposer

__all__ = ["plots", "print_sweep", "ranked", "write_record"]

_MOST_ROWS = 10
_INCHES_A_SLICE = 4.0


def ranked(book: StudyBook) -> list[Any]:
    """Optuna's records of the trials that came to their end, the best first."""
    # One that was ended early has a value too, for Optuna: its last.
    complete = [trial for trial in book.trials() if trial.state.name == "COMPLETE"]
    return sorted(complete, key=lambda trial: trial.value, reverse=book.highest)


def print_sweep(console: Console, book: StudyBook, proposer: Proposer) -> None:
    """The best trials, what became of the others, and what matters."""
    trials, best = book.trials(), ranked(book)
    keys = [dimension.key for dimension in proposer.dimensions]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("trial", f"test {proposer.config.best_metric}", *keys):
        table.add_column(column, justify="right", overflow="fold")
    for trial in best[:_MOST_ROWS]:
        settings = (dimension.setting(trial.params)[1] for dimension in proposer.dimensions)
        table.add_row(str(trial.number), f"{trial.value:.4f}", *settings)
    console.print(table)
    failed = [trial for trial in trials if failure_of(trial)]
    behind = len(trials) - len(best) - len(failed)
    line = f"{len(trials)} trials: {len(best)} to their end, {behind} ended because they fell behind"
    console.print(f"{line}, {len(failed)} failed", soft_wrap=True)
    for trial in failed:
        console.print(f"trial {trial.number} failed: {failure_of(trial)}", soft_wrap=True)
    importances = book.importances()
    if importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in importances.items())
        console.print(f"what matters (PED-ANOVA, of the better trials): {shares}", soft_wrap=True)


def write_record(book: StudyBook, proposer: Proposer, command: str | None, file: Path) -> None:
    """sweep.json, whole or not at all."""
    best = ranked(book)
    records = [_record(trial, proposer) for trial in book.trials()]
    record = {
        "task": proposer.base.task,
        "metric": proposer.config.best_metric,
        "highest_is_best": book.highest,
        "config_hash": config_hash(proposer.base),
        "searched": [dimension.key for dimension in proposer.dimensions],
        "best": _record(best[0], proposer) if best else None,
        "command": command,
        "importances": book.importances(),
        "trials": records,
    }
    write_whole(file, json_line(record) + "\n")


def plots(book: StudyBook, names: Sequence[str], folder: Path) -> list[str]:
    """Write the pictures; returns a line for each that says where, or why there is none."""
    if len(ranked(book)) < 2:
        return ["no plots: fewer than two trials came to their end"]
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        return ["no plots: matplotlib is not installed (pip install 'adamesh[plots]')"]
    import optuna.visualization.matplotlib as pictures

    lines = []
    wanted: list[tuple[str, float, Callable[[], Any]]] = [
        ("sweep-slice.png", _INCHES_A_SLICE * len(names), lambda: pictures.plot_slice(book.study, params=list(names)))
    ]
    if book.importances():
        wanted.append(("sweep-importance.png", _INCHES_A_SLICE, lambda: pictures.plot_param_importances(book.study)))
    for file, inches, draw in wanted:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls all of its pictures experimental
            axes = draw()
            figure = (axes if hasattr(axes, "figure") else axes.flat[0]).figure
            figure.set_size_inches(max(2 * _INCHES_A_SLICE, inches), _INCHES_A_SLICE)
            figure.savefig(folder / file, dpi=110, bbox_inches="tight")
            plt.close(figure)
        lines.append(f"plot in {folder / file}")
    return lines


def _record(trial: Any, proposer: Proposer) -> Mapping[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state.name == "COMPLETE" else None,
        "settings": dict(dimension.setting(trial.params) for dimension in proposer.dimensions),
        "evaluations": [trial.intermediate_values[count] for count in sorted(trial.intermediate_values)],
        "failure": failure_of(trial),
    }
