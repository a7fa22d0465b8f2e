"""A run's folder, whole or in the middle of being written."""

import json

import pytest

from adamesh.errors import ConfigurationError
from adamesh.report.facts import facts, standing
from adamesh.report.folders import run_folders
from adamesh.report.history import History
from adamesh.report.panels import panels_of
from tests.unit.report.folders import append, end, evaluation_line, event, make_run, step_line


def read(folder, name=""):
    history = History(folder, name)
    history.refresh()
    history.close()
    return history


def test_a_run_that_goes_on_has_a_step_a_speed_and_time_left(tmp_path):
    history = read(make_run(tmp_path / "run"))
    assert (history.step, history.total_steps, history.ended) == (40, 100, None)
    assert history.recent.samples_per_s == pytest.approx(64 / 0.02)
    assert history.left_s == pytest.approx(60 * 0.02)
    assert standing(history).word == "not ended"
    assert dict(facts(history))["steps"] == "40 of 100"


def test_a_run_that_has_ended_shows_its_summary(tmp_path):
    folder = make_run(tmp_path / "run", steps=100)
    end(folder, 100)
    known = dict(facts(read(folder)))
    assert (known["time"], known["samples/s"], known["best loss"]) == ("12.5 s", "3,000", "0.05 at step 30")
    assert (known["sent up a step"], known["state per worker"]) == ("1 kB", "155 kB")
    assert (known["test accuracy"], known["waiting for communication"]) == ("0.99", "20.0%")


def test_a_run_that_was_resumed_has_not_ended_whatever_its_old_summary_says(tmp_path):
    folder = make_run(tmp_path / "run", steps=41)
    end(folder, 40, stopped="interrupted")
    assert not standing(read(folder)).ended


def test_what_was_written_since_is_added(tmp_path):
    folder = make_run(tmp_path / "run", steps=3)
    history = History(folder)
    history.refresh()
    append(folder, "metrics.jsonl", step_line(4))
    append(folder, "events.jsonl", event(4, "skip", "why"))
    history.refresh()
    history.close()
    assert history.steps.num_bins == 4
    assert [found.kind for found in history.events] == ["skip"]


def test_a_run_that_went_back_is_read_anew(tmp_path):
    folder = make_run(tmp_path / "run", steps=30)
    history = History(folder)
    history.refresh()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)[:5]
    beside = folder / "beside"
    beside.write_text("".join(lines))
    beside.replace(folder / "metrics.jsonl")
    history.refresh()
    history.close()
    assert (history.step, history.steps.num_bins, history.last_evaluation) == (5, 5, {})


def test_half_a_line_and_lines_that_are_none_do_no_harm(tmp_path):
    folder = make_run(tmp_path / "run", steps=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('not json\n[1]\n{"loss": 1}\n{"step": "3", "loss": 1}\n{"step": true}\n' + "[" * 10**5 + "\n")
        file.write('{"step": 3, "loss": 1e999, "lr": 1' + "0" * 400 + ', "words": "no number"}\n{"step": 4, "lo')
    history = read(folder)
    assert history.steps.num_bins == 3
    assert history.num_unreadable == 6
    assert history.last_step == {"step": 3, "loss": None, "lr": None}
    assert "not finite" in standing(history).word


def test_a_run_without_a_step_yet_is_a_run(tmp_path):
    history = read(make_run(tmp_path / "run", steps=0))
    assert (history.step, history.recent, history.left_s, panels_of([history])) == (0, None, None, [])
    assert standing(history).word == "no step yet"


def test_epochs_are_steps_once_one_has_been_tested(tmp_path):
    folder = make_run(tmp_path / "run", steps=0)
    (folder / "config.toml").write_text('task = "digits"\nepochs = 7\n')
    append(folder, "metrics.jsonl", step_line(10))
    assert read(folder).total_steps is None
    append(folder, "metrics.jsonl", evaluation_line(10, epoch=1.0))
    assert read(folder).total_steps == 70


def test_only_what_was_measured_is_drawn_and_what_is_not_known_too(tmp_path):
    folder = make_run(tmp_path / "run", steps=10)
    append(folder, "metrics.jsonl", step_line(11, divergence=0.5))
    panels = panels_of([read(folder)])
    assert [panel.title for panel in panels] == [
        "Loss",
        "Accuracy",
        "Learning rate",
        "Gradient norm",
        "Time of a step",
        "Bytes sent and received in a step",
        "Optimizer state",
        "Divergence",
    ]


def test_what_belongs_together_is_drawn_together(tmp_path):
    folder = make_run(tmp_path / "run", steps=0)
    vitals = {"work_s": 0.01, "work_slowest_s": 0.02, "work_others_s": 0.01, "slowest_worker": 1}
    vitals |= {"grad_rms_first": 0.1, "grad_rms_last": 0.2, "dead_units": 0.3, "dead_units_worst_layer": 0.4}
    append(folder, "metrics.jsonl", step_line(1, **vitals))
    panels = {panel.title: [line.key for line in panel.lines] for panel in panels_of([read(folder)])}
    titles = ["Work of a step", "Slowest worker", "Gradients at both ends of the model", "Dead units"]
    assert list(panels)[-4:] == titles
    assert [key for title in titles for key in panels[title]] == list(vitals)


def test_many_steps_stay_few_points(tmp_path):
    folder = make_run(tmp_path / "run", steps=0)
    lines = (json.dumps(step_line(step, loss=-1.0 if step == 4567 else 1.0)) for step in range(1, 8_001))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    told = read(folder).steps.since(-1, 0)
    loss = told["columns"]["loss"]
    assert len(loss["mean"]) <= 600
    assert min(loss["low"]) == -1.0
    assert told["columns"]["seconds"]["high"][-1] == pytest.approx(160)


def test_a_comparison_stands_for_its_trials_and_names_tell_runs_apart(tmp_path):
    for name in ("a/run", "b/run", "compare/trials/x-seed0", "compare/trials/x-seed1"):
        make_run(tmp_path / name, steps=1)
    found = run_folders([tmp_path / "a/run", tmp_path / "b/run", tmp_path / "compare", tmp_path / "a/run"])
    assert list(found) == ["a/run", "b/run", "trials/x-seed0", "trials/x-seed1"]


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no config\.toml"):
        History(tmp_path)
