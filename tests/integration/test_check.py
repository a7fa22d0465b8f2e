"""``adamesh check`` passes where all is well, and names parameter and worker where it is not."""

import os

import pytest

from adamesh.cli.main import main
from adamesh.train.check import REPORT
from adamesh.train.comparison import CheckReport
from adamesh.train.launch import run_workers

# One worker's gradient of one parameter, one percent too large, from the third step on.
_BROKEN = """
from pathlib import Path
from adamesh.train.check import check_worker

def tamper(rank, step, model):
    if (rank, step) == (1, 2):
        model.get_parameter("classifier.1.weight").register_hook(lambda gradient: 1.01 * gradient)

def main(arguments):
    check_worker(Path(arguments[0]), tamper)
    return 0
"""


def test_digits_on_three_workers_train_as_with_torch(run, tmp_path):
    code, out, err = run("check", "digits", "--nproc", "3", "--steps", "5", "--out", "here")
    assert (code, err) == (0, "")
    assert "check passed" in out
    report = CheckReport.load(tmp_path / "here" / REPORT)
    assert (report.world_size, report.steps, len(report.parameters)) == (3, 5, 10)


@pytest.mark.soak
def test_a_task_of_ones_own_with_clipping_trains_as_with_torch(run, mine):
    code, out, err = run("check", mine, "--steps", "3", "--plan.max-grad-norm", "0.1", "--optim.rule", "adam")
    assert (code, err) == (0, "")
    assert "mine, 3 steps: adam on 2 workers" in out


@pytest.fixture
def _broken(environment, monkeypatch, tmp_path):
    """The workers run a check that is tampered with."""

    def run_broken(module, *rest, **more):
        return run_workers("broken", *rest, **more)

    monkeypatch.setattr("adamesh.train.launch.run_workers", run_broken)
    (tmp_path / "broken.py").write_text(_BROKEN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), environment["PYTHONPATH"]]))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_broken")
def test_a_gradient_scaled_on_one_worker_is_found_and_named(capfd, tmp_path):
    assert main(["check", "digits", "--out", "here"]) == 1
    _, err = capfd.readouterr()
    assert err.startswith("adamesh: check failed: the gradient of classifier.1.weight on worker 1 is ")
    assert "at step 3" in err
    report = CheckReport.load(tmp_path / "here" / REPORT)
    assert [p.name for p in report.parameters if p.complaints()] == ["classifier.1.weight"]
