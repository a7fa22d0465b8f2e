"""``adamesh bench step``: adamesh's training step against PyTorch's own, in turns in the same processes."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adamesh.bench.contenders import KINDS
from adamesh.bench.machine import Machine
from adamesh.bench.options import BASELINE, FLOOR, StepOptions
from adamesh.bench.records import Found
from adamesh.bench.summary import ModelResult, summarise
from adamesh.bench.table import print_legend, print_result
from adamesh.bench.worker import Job, answer_file, bar
from adamesh.errors import AdameshError, ConfigurationError
from adamesh.train.launch import run_workers

__all__ = ["StepResult", "bench_step"]

_TABLE_WIDTH = 100


@dataclass(frozen=True)
class StepResult:
    """Everything that was measured."""

    machine: Machine
    options: StepOptions
    models: dict[str, ModelResult]

    @property
    def agrees(self) -> bool:
        """Whether all contenders ended with the baseline's parameters, up to rounding."""
        return all(c.agrees for model in self.models.values() for c in model.contenders.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        options = asdict(self.options)
        for name in ("out", "json"):
            del options[name]  # where files lie on this machine is nobody's business
        return {
            "bench": "step",
            "baseline": BASELINE,
            "kinds": {
                name: {"says": kind.says, "twin": kind.twin, "sends": kind.sends} for name, kind in KINDS.items()
            },
            "machine": asdict(self.machine),
            "options": options,
            "models": {name: asdict(result) for name, result in self.models.items()},
        }


def bench_step(options: StepOptions, console: Console | None = None) -> StepResult:
    """Measure, print a table per model, and write the result as JSON.

    Args:
        options: what to measure, and where to write.
        console: where to print; the terminal if not given.

    Returns:
        What was measured. Where ``agrees`` is false, someone skipped work, and the times mean nothing.

    Raises:
        AdameshError: a worker failed; one line says which and why.
        KeyboardInterrupt: Ctrl-C.
    """
    # A line that a narrow terminal wraps is still right; a column that was cut to its width is not.
    console = console or Console(highlight=False, markup=False, width=max(_TABLE_WIDTH, Console().width))
    if options.device == "cuda" and not options.nproc <= torch.cuda.device_count():
        raise ConfigurationError(
            f"--device cuda --nproc {options.nproc}: each worker needs a GPU of its own, and torch finds "
            f"{torch.cuda.device_count()} here; lower --nproc, or leave --device out to measure on the CPU"
        )
    machine = Machine.observed(options.device)
    folder = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S-bench-step")
    folder.mkdir(parents=True, exist_ok=True)
    file = options.json or folder / "step.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    shown = list(dict.fromkeys([*options.contenders, BASELINE, FLOOR]))
    console.print(
        f"{options.nproc} processes with {options.threads} thread(s) each; "
        f"{options.rounds} rounds of {options.steps} steps after {options.warmup} for warming up"
    )
    if options.device == "cuda":
        console.print("a GPU for each process, NCCL; float32 as torch multiplies it by default")
    models: dict[str, ModelResult] = {}
    for name in options.models:
        result = _timed(name, options, shown, folder)
        if options.memory:
            result = _with_memory(result, name, options, shown, folder)
        print_result(console, name, result, shown)
        models[name] = result
    print_legend(console, {name: (KINDS[name].says, KINDS[name].sends) for name in shown}, machine.line())
    whole = StepResult(machine, options, models)
    file.write_text(json.dumps(whole.to_json(), indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {file}", soft_wrap=True)
    return whole


def _timed(model: str, options: StepOptions, shown: Sequence[str], folder: Path) -> ModelResult:
    """All contenders and their twins, in turns in the same processes."""
    twins = [twin for name in shown if (twin := KINDS[name].twin) is not None]
    names = tuple(dict.fromkeys([*shown, *twins]))
    job = Job(
        model,
        names,
        options.threads,
        options.tiny,
        options.device,
        warmup=options.warmup,
        rounds=options.rounds,
        steps=options.steps,
    )
    answers = _run(job, options.nproc, folder / f"{model}-times")
    return summarise([Found.from_json(answer) for answer in answers], {name: KINDS[name].twin for name in names})


def _with_memory(
    result: ModelResult, model: str, options: StepOptions, shown: Sequence[str], folder: Path
) -> ModelResult:
    """Each contender alone, in processes that have trained nothing before."""
    contenders = dict(result.contenders)
    with bar(shown=True) as progress:
        task = progress.add_task(f"{model}: memory", total=len(shown))
        progress.refresh()
        for name in shown:
            job = Job(model, (name,), options.threads, options.tiny, options.device)
            answers = _run(job, options.nproc, folder / f"{model}-memory-{name}")
            peak = max(answer["peak_bytes"] for answer in answers)
            contenders[name] = replace(contenders[name], peak_bytes=peak)
            progress.advance(task)
            progress.refresh()
    return replace(result, contenders=contenders)


def _run(job: Job, nproc: int, folder: Path) -> list[dict[str, Any]]:
    """Start workers for a job; what each of them found."""
    folder.mkdir(exist_ok=True)
    file = job.save(folder)
    outcome = run_workers("adamesh.bench.worker", [str(file)], nproc=nproc, logs=folder, on_stop=lambda: None)
    if outcome.stopped:
        raise KeyboardInterrupt
    if outcome.failure is not None:
        raise AdameshError(f"{job.model}: {outcome.failure.line()}; its log is {outcome.log}")
    return [json.loads(answer_file(folder, rank).read_text(encoding="utf-8")) for rank in range(nproc)]
