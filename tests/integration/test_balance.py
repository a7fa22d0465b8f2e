"""Workers of unequal speed that share a batch by their speeds."""

import json

from adamesh.data.ledger import expected
from adamesh.data.sampler import GlobalSampler


def test_a_balanced_run_gives_the_slow_worker_less_and_trains_on_every_sample_once(run, tmp_path):
    (tmp_path / "uneven.py").write_text(_UNEVEN)
    code, _, err = run("train", "uneven.py", "--out", "run", "--steps", "24", "--plan.balance")
    assert (code, err) == (0, "")
    ledger = json.loads((tmp_path / "run" / "summary.json").read_text())["ledger"]
    assert ledger == expected(GlobalSampler(1024, 64, 0), 24).saved()
    shares = [int(line) for line in (tmp_path / "shares1.txt").read_text().splitlines()]
    assert shares[0] == 32
    assert min(shares) < 24  # of 64, at a third of the speed: 16, but for what a busy machine measures


_UNEVEN = """
import os, time
from pathlib import Path

from adamesh.tasks.base import TaskDefaults
from adamesh.tasks.regression import Regression

class Uneven(Regression):
    name = "uneven"
    summary = "a regression whose second worker takes three times as long for a sample"
    defaults = TaskDefaults(batch_size=64, epochs=2, lr=1e-2)

    def loss(self, model, batch):
        rank, count = os.environ["RANK"], len(batch[0])
        time.sleep(count * (0.006 if rank == "1" else 0.002))
        with Path(f"shares{rank}.txt").open("a") as file:
            file.write(f"{count}\\n")
        return super().loss(model, batch)

del Regression
"""
