"""``adamesh bench residual``: what low rank holds back where workers have different data, beside PyTorch's own hook."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from adamesh.bench.machine import Machine
from adamesh.bench.options import ResidualOptions
from adamesh.bench.residual_worker import OURS, TORCHS, Trial, save
from adamesh.errors import AdameshError
from adamesh.train.launch import run_workers

__all__ = ["bench_residual"]

_MARKS = 40
_LEGEND = """\
norm of what a worker holds back of its gradients (the largest of all workers) after so many steps, on gradients that
are constant and different on every worker, with a little noise
adamesh: Wire(up=LowRank(rank)); torch: DistributedDataParallel with powerSGD_hook of the same rank
"""


def bench_residual(options: ResidualOptions, console: Console | None = None) -> dict[str, list[float]]:
    """Measure, print a table, write JSON and a picture; returns the norms at each mark.

    Raises:
        AdameshError: a worker failed; one line says which and why.
        KeyboardInterrupt: Ctrl-C.
    """
    console = console or Console(highlight=False, markup=False, width=max(100, Console().width))
    folder = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S-bench-residual")
    folder.mkdir(parents=True, exist_ok=True)
    marks = sorted({round(float(mark)) for mark in np.geomspace(1, options.steps, _MARKS)})
    trial = Trial(options.size, options.rank, options.steps, tuple(marks))
    arguments = [str(save(trial, folder))]
    outcome = run_workers(
        "adamesh.bench.residual_worker", arguments, nproc=options.nproc, logs=folder, on_stop=lambda: None
    )
    if outcome.stopped:
        raise KeyboardInterrupt
    if outcome.failure is not None:
        raise AdameshError(f"{outcome.failure.line()}; its log is {outcome.log}")
    answers = [json.loads((folder / f"norms{rank}.json").read_text(encoding="utf-8")) for rank in range(options.nproc)]
    norms = {name: np.max([answer[name] for answer in answers], axis=0).tolist() for name in (OURS, TORCHS)}
    machine = Machine.observed()
    _print(console, trial.marks, norms, machine)
    plain = {"bench": "residual", "machine": asdict(machine), "trial": asdict(trial), "norms": norms}
    file = folder / "residual.json"
    file.write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {file}", soft_wrap=True)
    console.print(_plot(trial, norms, folder / "residual.png"), soft_wrap=True)
    return norms


def _print(console: Console, marks: Sequence[int], norms: Mapping[str, Sequence[float]], machine: Machine) -> None:
    table = Table("steps", *norms, box=SIMPLE_HEAD)
    for column in table.columns:
        column.justify = "right"
    rows = sorted({*range(0, len(marks), 6), len(marks) - 1})
    for row in rows:
        table.add_row(f"{marks[row]:,}", *(f"{norms[name][row]:,.1f}" for name in norms))
    console.print(table)
    console.print(_LEGEND, end="")
    console.print(machine.line(), soft_wrap=True)


def _plot(trial: Trial, norms: Mapping[str, Sequence[float]], file: Path) -> str:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "no plot: matplotlib is not installed (pip install 'adamesh[plots]')"
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, curve in norms.items():
        axis.plot(trial.marks, curve, label=name)
    axis.set(xscale="log", yscale="log", xlabel="steps", ylabel="norm of what is held back")
    axis.grid(alpha=0.3)
    axis.legend()
    axis.set_title(f"low rank {trial.rank} of a {trial.size} x {trial.size} matrix")
    figure.savefig(file, dpi=110)
    return f"plot in {file}"
