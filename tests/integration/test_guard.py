"""Workers under a guard, one of whom has bad hardware, and a sample that nobody can learn from."""

import json
import re

_TASK = """
import os
from torch import nan
from adamesh.tasks.digits import Digits

BROKEN, POISON = {8, 21}, 17  # evaluations on worker 1; a training sample

class Mine(Digits):
    name = "mine"
    calls = 0

    def load_data(self, data, seed):
        splits = super().load_data(data, seed)
        Mine.poison = splits.train.batch([POISON])[0]
        return splits

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if model.training:
            self.calls += 1
            poisoned = bool((batch[0] == self.poison).flatten(1).all(1).any())
            broken = os.environ["RANK"] == "1" and self.calls in BROKEN
            loss = loss * (nan if poisoned or broken else 1.0)
        return loss

del Digits
"""


def test_bad_hardware_is_told_from_bad_samples(run, tmp_path):
    (tmp_path / "mine.py").write_text(_TASK)
    code, out, err = run("train", "mine.py", "--nproc", "3", "--steps", "24", "--plan.guard", "--out", "run")
    assert (code, err) == (0, ""), out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    found = [(event["kind"], event["message"]) for event in summary["events"]]
    hardware = [message for kind, message in found if kind == "bad-hardware"]
    data = [message for kind, message in found if kind == "skip"]
    assert len(hardware) == 2
    assert all("worker 1" in message for message in hardware)
    assert len(data) == 1
    assert re.search(r"\b17\b", data[0].partition("samples")[2])
    curve = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line.get("skipped", 0) for line in curve) == 1
    assert summary["final_loss"] < 2
