"""A run on two machines, which here are two network namespaces: they begin together, and one of them goes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adamesh.bench.hosts import Hosts
from adamesh.data.ledger import expected
from adamesh.data.sampler import GlobalSampler

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"
)
STEPS, BATCH = 2500, 64  # so many that the run is not over before somebody has gone


def lines(folder: Path, name: str) -> list[dict[str, object]]:
    file = folder / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.soak
def test_two_machines_begin_together_and_when_one_is_asked_to_end_the_other_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = [sys.executable, "-m", "adamesh", "train", "digits", "--elastic", "1:4", "--nproc", "1"]
    train += ["--steps", str(STEPS), "--batch-size", str(BATCH), "--out", str(run), "--nnodes", "2"]
    with Hosts(2, None) as hosts:
        train += ["--rdzv-endpoint", f"{hosts.address(0)}:29400"]
        machines = [
            subprocess.Popen(hosts.command(rank, [*train, "--node-rank", str(rank)]), stdout=subprocess.DEVNULL)
            for rank in range(2)
        ]
        try:
            deadline = time.monotonic() + 90
            while not lines(run, "metrics.jsonl"):
                assert time.monotonic() < deadline, [machine.poll() for machine in machines]
                time.sleep(0.05)
            machines[1].send_signal(signal.SIGTERM)
            assert [machine.wait(90) for machine in reversed(machines)] == [0, 0]
        finally:
            for machine in machines:
                machine.kill()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["stopped"] == "finished"
    assert "worker-left" in [event["kind"] for event in lines(run, "events.jsonl")]
    assert summary["ledger"] == expected(GlobalSampler(1437, BATCH, 0), STEPS).saved()
