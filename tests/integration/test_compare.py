"""The command itself, with trials that really train."""

import json
import signal
import time

import pytest

from adamesh.cli.main import main


@pytest.mark.soak
def test_a_comparison_that_was_stopped_goes_on_where_it_was_and_reports(start, run, mine, tmp_path):
    ask = ["compare", mine, "--over", "optim.lr=3e-3", "--seeds", "1", "--steps", "12", "--out", "cmp", "--nproc", "1"]
    process = start(*ask, SLOW_S="0.2")
    trial = tmp_path / "cmp" / "trials" / "optim.lr=3e-3-seed0"
    until_s = time.monotonic() + 60
    while not (trial / "metrics.jsonl").exists():
        assert time.monotonic() < until_s
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "adamesh: interrupted; finished trials are kept: the same command with --out cmp goes on\n"
    stopped = json.loads((trial / "summary.json").read_text())
    assert stopped["stopped"] == "interrupted"

    code, out, err = run(*ask)
    assert (code, err) == (0, "")
    assert json.loads((trial / "summary.json").read_text())["steps"] == 12
    assert f"resumed: from step-{stopped['steps']:08d}" in (trial / "output.log").read_text()
    assert "optim.lr=3e-3, seed 0: accuracy " in out
    record = json.loads((tmp_path / "cmp" / "compare.json").read_text())
    assert [trial["samples"] for trial in record["arms"][0]["trials"]] == [768]
    assert (tmp_path / "cmp" / "compare.png").stat().st_size > 1000


def test_what_is_asked_for_wrongly_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for argv, said in (
        (["--over", "plan.uq=exact"], "the nearest known key is plan.up"),
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--budget-s", "0"], "max_seconds = 0.0: must be a finite number above 0"),
        (["--over", "optim.rule=adamw,lion"], "optim.rule = 'lion': must be one of"),
    ):
        assert main(["compare", *argv]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("RANK", "0")
    assert main(["compare"]) == 2
    assert "without torchrun" in capsys.readouterr().err
