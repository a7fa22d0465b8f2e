"""Trials that end at once: a script in place of a training run, which leaves what one leaves."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from adamesh.train.settings import RunConfig
from adamesh.tune.arms import Budget, make_arms, make_trials, read_overs
from adamesh.tune.compare import compare

BASE = RunConfig(task="regression", nproc=1, steps=4, batch_size=10)


def comparison(folder, *overs, config=BASE, seeds=2, budget=None):
    """Arms and trials."""
    arms = make_arms(replace(config, out=folder), read_overs(overs, None), Budget(budget))
    return arms, make_trials(arms, seeds, folder)


def leave(folder: Path, losses, *, seconds=2.0, sent=100, stopped="finished", accuracy=None):
    """What a run of one worker leaves that was evaluated after each of its steps."""
    steps = len(losses)
    with (folder / "metrics.jsonl").open("w") as file:
        for number, loss in enumerate(losses, start=1):
            step = {"step": number, "loss": 9.0, "samples": 10 * number, "step_s": seconds / steps}
            file.write(json.dumps(step | {"bytes_up": sent, "bytes_down": sent}) + "\n")
            file.write(json.dumps({"step": number, "samples": 10 * number, "eval_loss": loss}) + "\n")
    summary = {
        "eval": {"loss": losses[-1]} | ({} if accuracy is None else {"accuracy": accuracy}),
        "samples": 10 * steps,
        "samples_per_s": 10 * steps / seconds,
        "steps": steps,
        "world_size": 1,
        "bytes_up_per_step": sent,
        "bytes_down_per_step": sent,
        "stopped": stopped,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


class Started:
    """Starts trials that do what ``ends`` says, by the trial's name; and notes them."""

    def __init__(self, ends):
        self.names: list[str] = []
        self.jobs: list[int] = []
        self._ends = ends

    def __call__(self, trial, jobs):
        self.names.append(trial.name)
        self.jobs.append(jobs)
        code = self._ends(trial)
        return subprocess.Popen([sys.executable, "-S", "-c", f"raise SystemExit({code})"])


def compared(arms, trials, ends, display, jobs=1):
    """The results, and what was started."""
    started = Started(ends)
    return compare(arms, trials, jobs, display, started), started
