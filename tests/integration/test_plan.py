"""``adamesh plan`` as it is typed."""

import json

from adamesh.cli.main import main


def test_plan_says_what_fits_and_what_to_take(tmp_path, capsys):
    file = tmp_path / "plan.json"
    argv = ["plan", "mlp", "--world", "4", "--link", "100mbit", "10gbit", "--device-memory", "1GiB"]
    assert main([*argv, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "<- recommended" in out
    assert "adamesh train mlp" in out
    found = json.loads(file.read_text())
    slow, fast = (found["links"][link]["plans"] for link in ("100mbit", "10gbit"))
    assert all(a["step_s"] >= b["step_s"] for a, b in zip(slow, fast, strict=True))
    assert all(plan["fits"] and plan["not_traced"] is None for plan in slow)
    assert file.with_suffix(".toml").exists()


def test_nothing_fits_into_a_thimble(capsys):
    assert main(["plan", "mlp", "--device-memory", "1KiB"]) == 1
    assert "no plan fits" in capsys.readouterr().out


def test_what_makes_no_sense_is_refused_in_one_line(capsys):
    for argv in (["--link", "fast"], ["--device-memory", "24"], ["--world", "0"], ["--plan.sync", "async"]):
        assert main(["plan", *argv]) == 2
        assert capsys.readouterr().err.count("\n") == 1
