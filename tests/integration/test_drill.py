"""Failures rehearsed on real workers, in a short form."""

import json

import pytest


def test_a_worker_killed_in_the_middle_of_a_commit_costs_no_step_and_no_sample(run, tmp_path):
    options = ("--nproc", "3", "--steps", "80", "--faults", "kill-commit", "--respawn", "no", "--out", "out")
    code, out, err = run("drill", "regression", *options)
    assert (code, err) == (0, "")
    [found] = json.loads((tmp_path / "out" / "drill.json").read_text())["rehearsals"]
    [hit] = found["hits"]
    assert 0 < hit["detection_s"] <= hit["recovery_s"]
    assert (found["same_samples"], found["ending"]["steps_lost"], found["ending"]["workers"]) == (True, 0, 2)
    assert found["difference"] < 1e-3  # float32, in which two workers add in another order than three
    assert "kill-commit-gone: 1 fault(s)" in out


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_islands_that_step_alone_outlive_workers_and_let_others_in(run, tmp_path):
    """The schedule is still going down when newcomers come."""
    options = ("--plan.sync", "diloco-16", "--faults", "kill", "--times", "2", "--respawn", "yes")
    _, _, err = run("drill", "regression", "--nproc", "3", "--steps", "1500", *options, "--out", "out")
    assert err == ""
    [found] = json.loads((tmp_path / "out" / "drill.json").read_text())["rehearsals"]
    assert len(found["hits"]) == 2
    assert (found["ending"]["finished"], found["ending"]["workers"]) == (True, 3)
    # What a lost island did since islands last met is lost with it: 16 steps of its share of 64 samples at most.
    assert found["lost_samples"] <= 2 * 16 * 32
    assert found["repeated_samples"] == 0


@pytest.mark.soak
def test_a_soak_ends_with_every_sample_trained_on_once(run, tmp_path):
    options = ("--nproc", "3", "--steps", "2500", "--faults", "kill", "slow", "--every-s", "2", "--out", "out")
    code, _, err = run("drill", "regression", "--soak", *options)
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "out" / "soak.json").read_text())
    assert found["rehearsal"]["same_samples"]
    assert len(found["rehearsal"]["hits"]) >= 1
    assert 0 < found["goodput"] < 1.1


@pytest.mark.parametrize("options", [("--nproc", "2"), ("--times", "0")])
def test_what_cannot_be_rehearsed_is_refused(run, options):
    code, _, err = run("drill", *options)
    assert code == 2
    assert "must be at least" in err or "at least 3" in err
