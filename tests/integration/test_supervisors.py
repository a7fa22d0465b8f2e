"""Supervisors start workers, and are nobody's lifeline."""

import json
import time


def test_workers_go_on_to_the_end_when_their_supervisors_are_killed(start, tmp_path):
    process = start("train", "digits", "--elastic", "1:2", "--nproc", "2", "--epochs", "10", "--out", "run")
    metrics, summary = tmp_path / "run" / "metrics.jsonl", tmp_path / "run" / "summary.json"
    until_s = time.monotonic() + 60
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < 5:
        assert time.monotonic() < until_s
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)  # the workers hold its other ends
    told = json.loads(summary.read_text())
    assert (told["steps"], told["stopped"], told["events"]) == (230, "finished", [])
