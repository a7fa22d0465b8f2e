"""Each symptom is found where it is, and not in a run that comes close."""

from dataclasses import replace

import pytest

from adamesh.doctor.examination import SYMPTOMS
from adamesh.train.config import OptimSettings, PlanSettings
from tests.unit.doctor.runs import CONFIG, diagnosed, leave

SKIP = "step {} is not made: gradient norm {} on worker 0, worst in '0.0'; as bad elsewhere: samples 1, 2 are bad"
BACK = (22, "rollback", "after 3 steps that could not be made, back to the state of step 0, on with the samples of ...")


GUARDED = replace(CONFIG, plan=PlanSettings(guard=True))


def after(step, **values):
    """From a step on: numbers, or functions of the line."""
    return lambda line: {k: v(line) if callable(v) else v for k, v in values.items() if line["step"] >= step}


def at(step, **values):
    return lambda line: values if line["step"] == step else {}


# Symptom -> what makes it, and what comes close.
TABLE = {
    "NaN batches": (
        [
            {"change": at(80, loss=None, grad_norm=None)},
            {"events": [(20, "skip", SKIP.format(20, "nan"))], "config": GUARDED},
        ],
        [{"change": at(80, loss=0.4)}],
    ),
    "divergence": (
        [
            {"change": after(2, loss=lambda line: 2.3 + 0.1 * line["step"])},
            {"change": after(40, loss=lambda line: 2.0)},
            {"change": lambda line: {"loss": 60.0 if 5 < line["step"] < 20 else 2.3}},
            {"change": lambda line: {"loss": 2.3 * 3.0 ** line["step"]} if line["step"] < 80 else {"loss": None}},
        ],
        [{"change": at(40, loss=20.0)}, {"change": after(40, loss=lambda line: 0.62 + line["loss"] / 2)}],
    ),
    "explosion": (
        [{"change": at(50, grad_norm=300.0)}, {"change": after(40, grad_norm=lambda line: 2.0 * line["step"])}],
        [{"change": at(70, grad_norm=6.0)}, {"change": at(50, grad_norm=300.0, skipped=1)}],
    ),
    "loss scale": (
        [
            {"change": lambda line: {"grad_rms_first": 1e-9, "grad_rms_last": 5e-9} if "dead_units" in line else {}},
            {"change": lambda line: {"loss_scale": 65536.0 / 2 ** line["step"], "skipped": 1}},
        ],
        [
            {"change": lambda line: {"grad_rms_first": 1e-6, "grad_rms_last": 5e-6} if "dead_units" in line else {}},
            {"change": lambda line: {"loss_scale": 65536.0 if line["step"] > 3 else 2.0**20}},
        ],
    ),
    "vanishing gradients": (
        [{"change": lambda line: {"grad_rms_first": 1e-7} if "dead_units" in line else {}}],
        [{"change": lambda line: {"grad_rms_first": 1e-5} if "dead_units" in line else {}}],
    ),
    "dead units": (
        [{"change": lambda line: {"dead_units_worst_layer": 0.95} if "dead_units" in line else {}}],
        [{"change": lambda line: {"dead_units": 0.5, "dead_units_worst_layer": 0.6} if "dead_units" in line else {}}],
    ),
    "stalled": (
        [{"change": lambda line: {"loss": 2.3 + 0.1 * (line["loss"] - 2.3) * (line["step"] % 2)}}],
        [
            {"change": after(5, loss=lambda line: 0.05 + 0.01 * (line["step"] % 3))},
            {"change": lambda line: {"loss": 2.3 - 0.003 * line["step"]}},
        ],
    ),
    "data starvation": (
        [{"change": after(1, data_wait_s=0.05)}, {"summary": {"data_wait_share": 0.4}}],
        [{"change": after(1, data_wait_s=0.01)}, {"change": at(30, data_wait_s=5.0, step_s=5.1)}],
    ),
    "stragglers": (
        [{"change": after(1, slowest_worker=1, work_slowest_s=0.25, work_others_s=0.05, work_s=0.05, step_s=0.3)}],
        [
            {"change": after(1, work_slowest_s=0.25, work_others_s=0.05, step_s=0.3)},
            {"change": after(1, slowest_worker=1, work_slowest_s=0.08, work_others_s=0.07)},
        ],
    ),
    "communication": (
        [
            {"change": after(1, comm_exposed_s=0.3, step_s=0.4)},
            {"change": after(1, comm_exposed_s=0.5, step_s=0.55, bytes_up=500, bytes_down=500)},
        ],
        [
            {"change": after(1, comm_exposed_s=0.05)},
            {"change": after(1, comm_exposed_s=0.3, step_s=0.4, bytes_up=500, bytes_down=500)},
            {
                "change": lambda line: (
                    {k: v / 100 for k, v in line.items() if k.endswith("_s")} | {"comm_exposed_s": 9e-4}
                )
            },
            {"change": at(30, comm_exposed_s=60.0, step_s=61.0)},
        ],
    ),
    "skipped steps": (
        [{"events": [(20, "skip", SKIP.format(20, "99.1, above 12.5"))], "config": GUARDED}],
        [{"events": []}],
    ),
    "rollbacks": (
        [{"events": [BACK], "config": GUARDED}],
        [{"events": [(10, "resumed", "from step-00000010 with 2 workers")]}],
    ),
    "hardware": ([{"events": [(9, "bad-hardware", "worker 1")]}], [{"events": []}]),
    "lost workers": ([{"events": [(9, "worker-lost", "w1: silent")]}], [{"events": [(9, "worker-left", "w1")]}]),
    "checkpoints": ([{"events": [(9, "checkpoint-failed", "disk")]}], [{"events": []}]),
}
SICK = [(symptom, run) for symptom, (sick, _) in TABLE.items() for run in sick]
CLOSE = [(symptom, run) for symptom, (_, close) in TABLE.items() for run in close]


def test_every_symptom_stands_in_the_table_but_failure_which_is_in_logs():
    assert set(SYMPTOMS) - set(TABLE) == {"failure"}


@pytest.mark.parametrize(("symptom", "run"), SICK, ids=[f"{name}-{n}" for n, (name, _) in enumerate(SICK)])
def test_a_sick_run_is_told_what_it_has_first(tmp_path, symptom, run):
    diagnosis = diagnosed(leave(tmp_path / "run", **run))
    primary = [name for name in diagnosis.findings if diagnosis.because_of(name) is None]
    assert primary == [symptom]
    found = diagnosis.findings[symptom]
    assert found.saw
    assert found.evidence
    assert found.advice


@pytest.mark.parametrize(("symptom", "run"), CLOSE, ids=[f"{name}-{n}" for n, (name, _) in enumerate(CLOSE)])
def test_a_run_that_only_comes_close_is_healthy(tmp_path, symptom, run):
    diagnosis = diagnosed(leave(tmp_path / "run", **run))
    assert diagnosis.healthy, diagnosis.findings
    assert symptom in diagnosis.absent


def test_a_slow_worker_is_not_taken_for_a_slow_link_though_the_others_wait(tmp_path):
    waits = after(1, slowest_worker=1, work_slowest_s=0.4, work_others_s=0.05, work_s=0.05, step_s=0.45)
    run = leave(tmp_path / "run", lambda line: waits(line) | {"comm_exposed_s": 0.37})
    assert list(diagnosed(run).findings) == ["stragglers"]


def test_islands_that_exchange_every_16th_step_are_judged_by_all_steps(tmp_path):
    def change(line):
        gone = dict.fromkeys(("work_s", "work_slowest_s", "work_others_s", "slowest_worker"), 0.0)
        return {
            "comm_exposed_s": 8.0 if line["step"] % 16 == 0 else 0.0,
            "step_s": 8.1 if line["step"] % 16 == 0 else 0.1,
        } | gone

    config = replace(CONFIG, plan=PlanSettings(sync="every-16"))
    run = leave(tmp_path / "run", change, steps=160, config=config)
    assert list(diagnosed(run).findings) == ["communication"]


def test_gradients_that_are_clipped_do_not_explode(tmp_path):
    config = replace(CONFIG, plan=PlanSettings(max_grad_norm=1.0))
    assert diagnosed(leave(tmp_path / "run", at(50, grad_norm=300.0), config=config)).healthy


def test_small_gradients_are_a_matter_of_eps_and_of_rules_that_have_one(tmp_path):
    small = lambda line: {"grad_rms_first": 1e-9, "grad_rms_last": 5e-9} if "dead_units" in line else {}  # noqa: E731
    for optim in (OptimSettings(lr=1e-3, eps=1e-12), OptimSettings(rule="sgd", lr=0.1)):
        assert diagnosed(leave(tmp_path / "run", small, config=replace(CONFIG, optim=optim))).healthy
