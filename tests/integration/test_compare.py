"""The command itself, with trials that really train."""

import json
import re
import signal
import time

from adamesh.cli.main import main


def test_a_comparison_that_was_stopped_goes_on_where_it_was_and_reports(start, run, mine, tmp_path):
    ask = ["compare", mine, "--over", "optim.lr=3e-3,1e-5", "--seeds", "1", "--steps", "12", "--out", "cmp"]
    ask += ["--nproc", "1", "--jobs", "2"]
    process = start(*ask, SLOW_S="0.2")
    first, second = (tmp_path / "cmp" / "trials" / f"optim.lr={lr}-seed0" for lr in ("3e-3", "1e-5"))
    until_s = time.monotonic() + 60
    while not all((folder / "metrics.jsonl").exists() for folder in (first, second)):
        assert time.monotonic() < until_s
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err == "adamesh: interrupted; finished trials are kept: the same command with --out cmp goes on\n"
    stopped = [json.loads((folder / "summary.json").read_text()) for folder in (first, second)]
    assert [end["stopped"] for end in stopped] == ["interrupted"] * 2

    code, out, err = run(*ask)
    assert (code, err) == (0, "")
    for folder, end in zip((first, second), stopped, strict=True):
        assert json.loads((folder / "summary.json").read_text())["steps"] == 12
        assert f"resumed: from step-{end['steps']:08d}" in (folder / "output.log").read_text()
    assert re.search(r"optim\.lr=1e-5: loss \+\d\.\d{4}: one seed: noise unknown", out)
    record = json.loads((tmp_path / "cmp" / "compare.json").read_text())
    assert [arm["trials"][0]["samples"] for arm in record["arms"]] == [768] * 2
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
