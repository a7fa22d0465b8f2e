"""``adamesh bench link``: training over a slow link, with torch's own ways to send less and with adamesh's plans."""

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from adamesh.bench.host_workers import run_on_hosts
from adamesh.bench.hosts import Hosts
from adamesh.bench.link_contenders import says
from adamesh.bench.link_plot import plot
from adamesh.bench.link_worker import Course, Curve
from adamesh.bench.machine import Machine
from adamesh.bench.options import LinkOptions
from adamesh.data.corpus import load_corpus
from adamesh.data.vocabulary import Words

__all__ = ["LinkResult", "Standing", "bench_link"]

_VOCABULARY, _TINY_VOCABULARY = 8192, 256
_LEAST_TOKENS = 10_000
_LEGEND = """\
step: seconds of a training step, the median; samples/s: of all hosts, over all steps
waited: seconds a step for the link, where a contender says; sent: bytes that left a host per step, with headers
loss: on held-out text, after the same number of steps, and after the time that the first needed for them
to its loss: when a contender had the loss that the first ended with, and how many times sooner
"""


@dataclass(frozen=True)
class Standing:
    """How one contender did, against the first."""

    step_s: float
    """The median; where hosts agree in some steps only, that of the others."""
    samples_per_s: float
    """Of all hosts, over all steps."""
    waited_s: float | None
    """For the link, a step; None: it does not say."""
    bytes_per_step: float
    """That left one host, the mean over hosts."""
    loss_equal_steps: float
    loss_equal_time: float
    to_first_loss_s: float | None
    """When it had the loss that the first ended with; None: not in the time that it had."""
    steps: int


@dataclass(frozen=True)
class LinkResult:
    """Everything that was measured."""

    machine: Machine
    options: LinkOptions
    source: str
    standings: Mapping[str, Standing]
    curves: Mapping[str, Curve]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        options = asdict(self.options)
        for name in ("out", "data"):
            del options[name]  # where files lie on this machine is nobody's business
        return {
            "bench": "link",
            "machine": asdict(self.machine),
            "options": options,
            "text": self.source,
            "contenders": {
                name: {"says": says(name), **asdict(standing), "curve": asdict(self.curves[name])}
                for name, standing in self.standings.items()
            },
        }


def bench_link(options: LinkOptions, console: Console | None = None) -> LinkResult:
    """Make the hosts, run the course on them, print a table, and write JSON and a plot.

    Raises:
        ConfigurationError: hosts cannot be made here: not root, no iproute2, no such kernel.
        AdameshError: a worker failed; one line says which and why.
    """
    console = console or Console(highlight=False, markup=False, width=max(130, Console().width))
    folder = options.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S-bench-link")
    machine = Machine.observed()
    with Hosts(options.hosts, options.mbit) as hosts:
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = _TINY_VOCABULARY if options.tiny else _VOCABULARY
        corpus = load_corpus(options.data, Words, vocabulary, least=_LEAST_TOKENS)
        torch.save({"train": _tokens(corpus.train), "test": _tokens(corpus.test)}, folder / "tokens.pt")
        course = _course(options, vocabulary)
        rate = "unlimited" if options.mbit is None else f"{options.mbit:g} Mbit/s"
        console.print(f"{options.hosts} hosts joined at {rate}; {corpus.source}", soft_wrap=True)
        file = folder / "course.json"
        file.write_text(json.dumps({**asdict(course), "interface": hosts.interface}), encoding="utf-8")
        run_on_hosts(hosts, "adamesh.bench.link_worker", [str(file)], folder / "logs")
    answers = [_curves(folder / f"curves{rank}.json") for rank in range(options.hosts)]
    result = LinkResult(machine, options, corpus.source, standings(course, answers), answers[0])
    _print(console, result)
    (folder / "link.json").write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {folder / 'link.json'}", soft_wrap=True)
    console.print(plot(answers[0], rate, folder / "link.png"), soft_wrap=True)
    return result


def standings(course: Course, answers: Sequence[Mapping[str, Curve]]) -> dict[str, Standing]:
    """The table's numbers from every host's curves; the first host's clock counts."""
    baseline = answers[0][course.contenders[0]]
    limit_s = baseline.seconds[course.steps - 1]
    goal = baseline.eval_losses[baseline.eval_steps.index(course.steps)]
    found = {}
    for name in course.contenders:
        curve = answers[0][name]
        times = [0.0, *curve.seconds]
        evaluations = [(times[step], loss) for step, loss in zip(curve.eval_steps, curve.eval_losses, strict=True)]
        durations = [late - early for early, late in pairwise(times)]
        found[name] = Standing(
            step_s=statistics.median(durations),
            samples_per_s=len(answers) * course.batch_size * len(durations) / curve.elapsed_s,
            waited_s=None if curve.waited_s is None else curve.waited_s / len(durations),
            bytes_per_step=statistics.mean(answer[name].bytes_sent for answer in answers) / len(durations),
            loss_equal_steps=curve.eval_losses[curve.eval_steps.index(course.steps)],
            loss_equal_time=[loss for at_s, loss in evaluations if at_s <= limit_s][-1],
            to_first_loss_s=next((at_s for at_s, loss in evaluations if loss <= goal), None),
            steps=len(durations),
        )
    return found


def _tokens(split: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.asarray(split).astype(np.int32))


def _curves(file: Path) -> dict[str, Curve]:
    return {name: Curve(**curve) for name, curve in json.loads(file.read_text(encoding="utf-8")).items()}


def _course(options: LinkOptions, vocabulary: int) -> Course:
    return Course(
        contenders=tuple(options.contenders),
        steps=options.steps,
        batch_size=options.batch_size,
        vocabulary=vocabulary,
        context=options.context,
        tiny=options.tiny,
        most_steps=options.steps * options.most_times,
    )


def _print(console: Console, result: LinkResult) -> None:
    columns = (
        "",
        "step",
        "samples/s",
        "",
        "waited",
        "sent per step",
        "loss, equal steps",
        "loss, equal time",
        "to its loss",
        "",
    )
    table = Table(*columns, box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    first = next(iter(result.standings.values()))
    for name, s in result.standings.items():
        sooner = (first.to_first_loss_s or 0.0) / s.to_first_loss_s if s.to_first_loss_s else None
        table.add_row(
            name,
            f"{s.step_s:.3f} s",
            f"{s.samples_per_s:.2f}",
            f"{s.samples_per_s / first.samples_per_s:.2f} x",
            "" if s.waited_s is None else f"{s.waited_s:.3f} s",
            f"{s.bytes_per_step / 1e6:.2f} MB",
            f"{s.loss_equal_steps:.3f}",
            f"{s.loss_equal_time:.3f}",
            "not reached" if s.to_first_loss_s is None else f"{s.to_first_loss_s:.1f} s",
            "" if sooner is None else f"{sooner:.2f} x",
        )
    console.print(table)
    for name in result.standings:
        console.print(f"{name}: {says(name)}", soft_wrap=True)
    console.print(_LEGEND, end="")
    console.print(result.machine.line(), soft_wrap=True)
