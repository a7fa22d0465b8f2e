"""``adamesh plan`` as it is typed."""

import json

import pytest

from adamesh.cli.main import main


def test_plan_says_what_fits_and_what_to_take(tmp_path, capsys):
    file = tmp_path / "plan.json"
    argv = ["plan", "mlp", "--link", "100mbit", "10gbit", "--device-memory", "600KiB"]
    assert main([*argv, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "<- recommended" in out
    assert "adamesh train mlp" in out
    found = json.loads(file.read_text())
    slow, fast = (found["links"][link]["plans"] for link in ("100mbit", "10gbit"))
    assert all(a["step_s"] >= b["step_s"] for a, b in zip(slow, fast, strict=True))
    assert {plan["fits"] for plan in slow} == {True, False}
    assert all(plan["fits"] == (plan["memory"]["peak"] <= 600 * 1024) for plan in slow)
    assert "does not fit" in out
    assert file.with_suffix(".toml").exists()


# Alone; as many as there are cores as a rule; and on two cores, more.
@pytest.mark.parametrize("world", [1, 2, pytest.param(3, marks=pytest.mark.soak)])
def test_what_is_measured_here_is_foretold(tmp_path, world):
    file = tmp_path / "plan.json"
    assert main(["plan", "regression", "--world", str(world), "--measure", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["measured"]
    assert all(plan["step_s"] > 0 for plan in found["links"]["1gbit"]["plans"])


def test_what_makes_no_sense_is_refused_in_one_line(capsys):
    for argv in (["--link", "fast"], ["--device-memory", "24"], ["--world", "0"], ["--plan.sync", "async"]):
        assert main(["plan", *argv]) == 2
        assert capsys.readouterr().err.count("\n") == 1
