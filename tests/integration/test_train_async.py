"""``adamesh train --plan.sync async``: whole runs, each worker at its own speed."""

import signal

import pytest

from tests.integration.test_train import await_step, metrics, summary


@pytest.mark.soak
def test_a_run_at_everybodys_own_speed_is_stopped_and_goes_on_with_other_workers(start, run, mine, tmp_path):
    folder = tmp_path / "run"
    options = ["--nproc", "3", "--plan.sync", "async-4", "--eval-every", "3"]
    process = start("train", mine, "--out", "run", *options, SLOW_S="0.2")
    await_step(process, folder)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    stopped = summary(folder)
    assert (stopped["stopped"], stopped["samples"]) == ("interrupted", 64 * stopped["steps"])

    total = stopped["steps"] + 6
    code, out, err = run("resume", "run", "--nproc", "2", "--steps", str(total))
    assert (code, err) == (0, "")
    ended = summary(folder)
    assert (ended["stopped"], ended["steps"], ended["samples"]) == ("finished", total, 64 * total)
    fates = ended["asynchronous"]["workers"]
    assert sum(sum(worker.values()) for worker in fates) == 64 * 6  # since it was resumed
    assert sum(ended["asynchronous"]["staleness"].values()) > 0
    assert "accepted" in out
    lines = [line for line in metrics(folder) if "staleness" in line]
    assert all(0 <= line["accepted_share"] <= 1 for line in lines)
    assert [line["step"] for line in metrics(folder) if "eval_loss" in line][-1] == total


def test_a_worker_that_is_killed_is_missed_by_the_others(run, mine, tmp_path):
    # Workers do not wait for each other: slowly, so that the other one is training too when this one is killed.
    failing = {"FAIL_RANK": "0", "FAIL_BY": "SIGKILL", "SLOW_S": "0.5"}
    code, _, err = run("train", mine, "--out", "run", "--plan.sync", "async", **failing)
    assert code == 1
    assert err.startswith("adamesh: worker 0 was killed (SIGKILL): ")
    assert "PeerLost" in (tmp_path / "run" / "logs" / "1" / "worker1.log").read_text()
