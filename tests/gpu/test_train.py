"""``adamesh train`` on a GPU: one worker, two that share it, and two that come and go."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def trained(folder: Path, *options: str) -> dict:
    """The summary of a run of the digits on a GPU."""
    command = [sys.executable, "-m", "adamesh.cli.main", "train", "digits", "--device", "cuda", "--epochs", "6"]
    environment = {**os.environ, "COLUMNS": "80"}
    run = [*command, "--out", str(folder), *options]
    ended = subprocess.run(run, check=True, env=environment, capture_output=True, text=True)
    assert " on cuda" in ended.stdout
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize(
    "how",
    [
        ("--nproc", "1"),
        ("--nproc", "1", "--precision", "bf16"),
        ("--nproc", "2", "--backend", "gloo"),
        ("--nproc", "2", "--backend", "gloo", "--plan.up", "int4", "--plan.down", "int8"),
        ("--nproc", "2", "--backend", "gloo", "--plan.sync", "async"),
        ("--nproc", "2", "--elastic", "1:2"),
    ],
    ids=" ".join,
)
def test_the_digits_are_learnt_on_a_gpu(tmp_path, how):
    summary = trained(tmp_path / "run", *how)
    assert summary["eval"]["accuracy"] > 0.95
