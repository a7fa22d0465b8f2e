"""Folders as runs leave them, with numbers that are made up."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from adamesh.doctor.examination import diagnose
from adamesh.doctor.record import read_record
from adamesh.train.config import OptimSettings, RunConfig, ScheduleSettings, write_config

STEPS = 80
CONFIG = RunConfig(task="digits", steps=STEPS, batch_size=64, optim=OptimSettings(lr=3e-3))
CONFIG = replace(CONFIG, schedule=ScheduleSettings(kind="constant", warmup_steps=0))
NOISE = np.random.default_rng(0).normal(size=1000)


def line(step):
    """A healthy step of one of two workers that are alike: the loss falls from 2.3, a step takes 100 ms."""
    probed = {"grad_rms_first": 1e-3, "grad_rms_last": 5e-3, "dead_units": 0.1, "dead_units_worst_layer": 0.3}
    return {
        "step": step,
        "loss": 2.3 * float(np.exp(-step / 30)) + 0.05 * abs(NOISE[step]),
        "lr": 3e-3,
        "grad_norm": 2.0 * float(np.exp(-step / 40)) * (1 + 0.2 * NOISE[step]),
        "step_s": 0.1,
        "data_wait_s": 1e-4,
        "comm_exposed_s": 0.02,
        "bytes_up": 80_000,
        "bytes_down": 80_000,
        "work_s": 0.07,
        "work_slowest_s": 0.08,
        "work_others_s": 0.07,
        "slowest_worker": step % 2,
        "samples": 64 * step,
        **(probed if step % 10 == 0 else {}),
    }


def leave(folder: Path, change=lambda line: {}, *, steps=STEPS, config=CONFIG, events=(), summary=None):
    """A run whose lines are healthy but for what ``change`` says of each."""
    folder.mkdir(exist_ok=True)
    if config is not None:
        write_config(replace(config, out=folder), folder / "config.toml")
    lines = [line(step) | change(line(step)) for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    told = [{"step": step, "kind": kind, "message": message} for step, kind, message in events]
    (folder / "events.jsonl").write_text("".join(json.dumps(one) + "\n" for one in told))
    ended = {"stopped": "finished", "world_size": 2, "steps": steps, "data_wait_share": 0.001}
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(ended | summary))
    return folder


def diagnosed(folder):
    return diagnose(read_record(folder))
