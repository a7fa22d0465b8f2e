"""What every worker of ``adamesh find-lr`` does: train while the learning rate rises, and take down the loss.

The steps are those of a run (`adamesh.train.step`): the same samples in the same order on any number of workers.
Models and optimizers are made for this and forgotten; nothing but the curves is left.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from statistics import median

import torch
from torch import nn

import adamesh
from adamesh.data.seeds import derived_seed
from adamesh.tasks.catalog import find_task
from adamesh.train.config import load_config, resolved
from adamesh.train.files import json_line, write_whole
from adamesh.train.names import build_optimizer, build_plan
from adamesh.train.progress import Display, display_for
from adamesh.train.run import Run
from adamesh.train.step import Stepper
from adamesh.train.weights import load_weights
from adamesh.train.worker import choose_device
from adamesh.train.workers import GroupWorkers
from adamesh.tune.rate.curve import Curve, Look
from adamesh.tune.rate.pairing import Pairing

__all__ = ["CURVES", "main", "read_curves", "rising"]

CURVES = "curves.json"
"""In the folder of a search: what the workers found."""

_LOOKS = 40
"""How often test data are looked at on the way up."""
_RECENT = 8
"""Steps whose median loss is that of the beginning, or of now, where it is asked whether there is more to see."""


def main(arguments: Sequence[str]) -> int:
    """The process's entry: the folder of a search, the highest rate, the number of seeds."""
    folder, highest, num_seeds = Path(arguments[0]), float(arguments[1]), int(arguments[2])
    config = load_config(folder / "config.toml")
    task = find_task(config.task)
    config = resolved(config, task)
    device = choose_device(config)
    splits = task.load_data(config.data, config.seed)
    workers = GroupWorkers.join(device, config.plan.timeout_s, config.backend)
    display = display_for(workers.is_first)
    curves = []
    for number in range(num_seeds):
        mine = replace(config, seed=config.seed + number)
        run = Run(mine, task, splits, folder, workers, device)
        climb = _Climb(run, highest)
        if number == 0:
            display.begin(climb.header(num_seeds), 0, num_seeds * run.total_steps())
        curves.append(climb.climb(display, number * run.total_steps()))
    display.end()
    if workers.is_first:
        write_whole(folder / CURVES, json_line([asdict(curve) for curve in curves]) + "\n")
    workers.part()
    return 0


def read_curves(folder: Path) -> list[Curve]:
    """What `main` has left."""
    found = json.loads((folder / CURVES).read_text(encoding="utf-8"))
    return [Curve(**curve | {"looks": [Look(**look) for look in curve["looks"]]}) for curve in found]


class _Climb:
    """One worker's part in one seed's curve.

    Args:
        run: what is trained; its learning rate is the lowest.
        highest: the last step's rate.
    """

    def __init__(self, run: Run, highest: float) -> None:
        self._run = run
        config = run.config
        lowest = config.optim.lr
        assert lowest is not None
        self._rates = rising(lowest, highest, run.total_steps())
        torch.manual_seed(derived_seed("model", config.seed))
        self._model: nn.Module = run.task.build_model().to(run.device).train()
        if config.weights is not None:
            load_weights(self._model, config.weights)
        adamesh.broadcast_module(self._model)
        plan = build_plan(config.plan, run.device, run.workers.size, config.optim.rule)
        self._optimizer = build_optimizer(config.optim, self._model, plan)
        self._stepper = Stepper(run, self._model, self._optimizer, factor=lambda step: self._rates[step] / lowest)
        self._pairing = Pairing(run, self._model)

    def header(self, num_seeds: int) -> list[tuple[str, str]]:
        """What is about to be done, for the display."""
        run, rates = self._run, self._rates
        return [
            ("task", f"{run.task.name}: {run.task.summary}"),
            ("data", run.splits.source),
            ("workers", f"{run.workers.size} on {run.device.type}"),
            ("rule", run.config.optim.rule),
            ("rates", f"{rates[0]:g} to {rates[-1]:g} in {len(rates)} steps, {num_seeds} seeds"),
            ("folder", str(run.folder)),
        ]

    def climb(self, display: Display, done: int) -> Curve:
        """Train up to the last rate, or until there is nothing more to see. Collective."""
        losses: list[float] = []
        looks: list[Look] = []
        every = max(1, len(self._rates) // _LOOKS)
        try:
            for step, rate in enumerate(self._rates):
                local = self._stepper.take(step)
                (loss,) = self._run.workers.sum([local.loss_share])
                if not isfinite(loss):
                    break
                losses.append(loss)
                if step % every == every - 1:
                    looks += self._pairing.look(step)
                display.step(done + step + 1, {"lr": rate, "loss": loss})
                if _is_hopeless(losses):
                    break
        finally:
            self._stepper.close()
        return Curve(self._run.config.seed, self._rates, losses, looks)


def rising(lowest: float, highest: float, steps: int) -> list[float]:
    """Rates from ``lowest`` to ``highest``, each as many times the one before."""
    return [lowest * (highest / lowest) ** (step / max(1, steps - 1)) for step in range(steps)]


def _is_hopeless(losses: Sequence[float]) -> bool:
    """Whether the loss is as far above that of the beginning as it ever was below; the same on every worker."""
    if len(losses) < 2 * _RECENT:
        return False
    start = median(losses[:_RECENT])
    return median(losses[-_RECENT:]) - start > start - min(losses) > 0
