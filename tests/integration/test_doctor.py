"""Runs that are made sick on purpose, and healthy ones: what does `adamesh doctor` say?"""

import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path

import pytest

from adamesh.bench.host_workers import run_on_hosts
from adamesh.bench.hosts import Hosts
from adamesh.cli.main import main
from adamesh.train.config import RunConfig
from adamesh.train.folder import begin_run

_TASK = """
import os, time

import torch
from torch import nn

from adamesh.tasks.base import Splits
from adamesh.tasks.mlp import MultilayerPerceptron

FAULT, RANK = os.environ["FAULT"], os.environ.get("RANK")


class Starved:
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def batch(self, indices):
        time.sleep(0.4)
        return self.split.batch(indices)


class Poisoned(Starved):
    def batch(self, indices):
        images, labels = self.split.batch(indices)
        return torch.where((indices % 10 == 0).view(-1, 1, 1, 1), float("nan"), images), labels


class Sick(MultilayerPerceptron):
    name = "sick"
    summary = "digits, and something is wrong"
    calls = 0

    def load_data(self, data, seed):
        splits = super().load_data(data, seed)
        wrap = {"starved": Starved, "poisoned": Poisoned}.get(FAULT)
        return splits if wrap is None else Splits(wrap(splits.train), splits.test, splits.source)

    def build_model(self):
        model = super().build_model()
        if FAULT == "dead":
            for layer in model.modules():
                if isinstance(layer, nn.Linear) and layer.out_features == 128:
                    nn.init.constant_(layer.bias, -20.0)
        if FAULT == "wide":  # much to send, little to compute
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 10))
        if FAULT == "vanishing":
            widths = [64] + [32] * 9
            hidden = [part for pair in zip(widths, widths[1:]) for part in (nn.Linear(*pair), nn.Sigmoid())]
            model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(32, 10))
        return model

    def loss(self, model, batch):
        self.calls += 1
        loss = super().loss(model, batch)
        if FAULT == "slow":
            time.sleep(0.2 if RANK == "1" else 0.04)
        if FAULT == "nan" and self.calls == 40 and RANK == "1":
            return loss * float("nan")
        if FAULT == "explosion" and self.calls == 40:
            return loss * 1e4
        return loss * 1e-10 if FAULT == "scaled" else loss


del MultilayerPerceptron
"""
SHORT = ("--steps", "60", "--eval-every", "60", "--checkpoint-every", "60")
LR_100 = ("--optim.lr", "0.3", "--schedule.kind", "constant", "--schedule.warmup-steps", "0")
# Fault -> the run's options, and what must be found, the others' causes first.
FAULTS = {
    "lr x 100": (("--nproc", "1", *LR_100), "divergence"),
    "nan": ((), "NaN batches"),
    "poisoned": (("--plan.guard",), "NaN batches"),
    "vanishing": (("--nproc", "1"), "vanishing gradients"),
    "dead": (("--nproc", "1"), "dead units"),
    "scaled": (("--nproc", "1"), "loss scale"),
    "lr / 1e6": (("--nproc", "1", "--optim.lr", "3e-9"), "stalled"),
    "explosion": (("--nproc", "1"), "explosion"),
    "slow": ((), "stragglers"),
    "starved": ((), "data starvation"),
}
HEALTHY = {
    "digits": ("digits", "--seed", "1", "--steps", "80"),
    "mlp": ("mlp", "--seed", "2", "--steps", "150"),
    "regression": ("regression", "--seed", "3", "--steps", "150"),
    "binary": ("binary", "--seed", "4", "--steps", "150"),
    "text:tiny": ("text:tiny", "--seed", "5", "--steps", "60", "--nproc", "1"),
}
BUSY = {"communication", "stragglers", "data starvation"}
"""What else the machine does at the time may make a worker slow, and others wait for it."""


def diagnosed(folder, capsys):
    """What ``adamesh doctor --json`` says; the text is shown, for whoever runs this with -s."""
    assert main(["doctor", str(folder)]) == 0
    with capsys.disabled():
        print(capsys.readouterr().out)
    assert main(["doctor", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def first(diagnosis):
    """The symptoms that are no consequence of others."""
    return [found["symptom"] for found in diagnosis["findings"] if found["because_of"] is None]


@pytest.fixture
def sick(run, tmp_path, capsys):
    """Trains with a fault, and asks the doctor."""

    def sick(fault, *options):
        (tmp_path / "sick.py").write_text(_TASK)
        code, _, err = run("train", "sick.py", "--out", "run", *SHORT, *options, FAULT=fault)
        assert code != 2, err
        return diagnosed(tmp_path / "run", capsys)

    return sick


@pytest.mark.soak
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "nan"])
def test_the_fault_is_named(fault, sick):
    options, symptom = FAULTS[fault]
    assert first(sick(fault, *options))[0] == symptom


def is_well(diagnosis):
    """Healthy, but for what another test on the same cores may do to it."""
    return {found["symptom"] for found in diagnosis["findings"]} <= BUSY


def test_a_nan_batch_on_one_of_two_workers_is_named_with_its_step_and_a_command(sick):
    diagnosis = sick("nan")
    found, *others = [found for found in diagnosis["findings"] if found["because_of"] is None]
    assert found["symptom"] == "NaN batches"
    assert {other["symptom"] for other in others} <= BUSY
    assert "step 40" in found["saw"]
    assert any("--plan.guard" in (advice["command"] or "") for advice in found["advice"])
    assert diagnosis["state"] == "failed"


@pytest.mark.soak
@pytest.mark.parametrize("task", [task for task in HEALTHY if task != "digits"])
def test_a_healthy_run_is_called_healthy(task, run, tmp_path, capsys):
    code, _, err = run("train", *HEALTHY[task], "--out", "run")
    assert (code, err) == (0, "")
    assert diagnosed(tmp_path / "run", capsys)["healthy"]


def test_the_default_task_is_healthy_also_while_it_runs(start, tmp_path, capsys):
    process = start("train", *HEALTHY["digits"], "--out", "run")
    metrics, until_s = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < until_s
        time.sleep(0.05)
    going_on = diagnosed(tmp_path / "run", capsys)
    assert (going_on["state"], is_well(going_on)) == ("unfinished", True)
    process.communicate(timeout=100)
    ended = diagnosed(tmp_path / "run", capsys)
    assert (ended["state"], is_well(ended), ended["steps"]) == ("finished", True, 80)
    assert set(ended["unknown"]) == set()


@pytest.mark.soak
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2")
def test_a_link_of_10_mbit_is_named(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("FAULT", "wide")
    (tmp_path / "sick.py").write_text(_TASK)
    task = str(tmp_path / "sick.py")
    config = RunConfig(task=task, out=tmp_path / "run", steps=40, eval_every=40, checkpoint_every=40)
    folder = begin_run(config, 2, datetime.now())
    with Hosts(2, 10.0) as hosts:
        run_on_hosts(hosts, "adamesh.train.worker", [str(folder)], tmp_path / "hosts")
    diagnosis = diagnosed(folder, capsys)
    assert first(diagnosis) == ["communication"]
    assert "Mbit/s" in " ".join(diagnosis["findings"][0]["evidence"])
