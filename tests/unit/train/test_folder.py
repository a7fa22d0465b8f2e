"""Where runs lie: new ones never on top of old ones."""

from datetime import datetime

import pytest

from adamesh.errors import ConfigurationError
from adamesh.train.config import load_config
from adamesh.train.folder import begin_run, reopen_run
from adamesh.train.rules import RULES
from adamesh.train.settings import OptimSettings, RunConfig

NOW = datetime(2025, 1, 31, 10, 15, 30)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_run_without_a_folder_is_named_for_time_and_task(tmp_path):
    assert begin_run(RunConfig(), 2, NOW) == tmp_path / "runs" / "20250131-101530-digits"
    assert begin_run(RunConfig(), 2, NOW, "check") == tmp_path / "runs" / "20250131-101530-check-digits"


def test_two_runs_of_one_second_have_two_folders(tmp_path):
    begin_run(RunConfig(), 2, NOW)
    assert begin_run(RunConfig(), 2, NOW) == tmp_path / "runs" / "20250131-101530-digits-2"


def test_the_configuration_left_there_has_everything_resolved(tmp_path):
    folder = begin_run(RunConfig(steps=7, out=tmp_path / "mine"), 3, NOW)
    config = load_config(folder / "config.toml")
    assert (config.steps, config.nproc, config.out) == (7, 3, tmp_path / "mine")
    assert None not in (config.batch_size, config.optim.lr, config.schedule.kind)


@pytest.mark.parametrize("trace", ["metrics.jsonl", "checkpoints/step-00000001/shard"])
def test_a_folder_that_was_trained_in_is_refused_with_both_ways_out(tmp_path, trace):
    folder = begin_run(RunConfig(out=tmp_path / "mine"), 2, NOW)
    (folder / trace).parent.mkdir(parents=True, exist_ok=True)
    (folder / trace).write_text("{}\n")
    with pytest.raises(ConfigurationError, match=r"out = mine: .* another --out, or .* adamesh resume mine"):
        begin_run(RunConfig(out=tmp_path / "mine"), 2, NOW)


def test_a_start_that_failed_before_training_may_be_repeated(tmp_path):
    begin_run(RunConfig(out=tmp_path / "mine"), 2, NOW)
    assert begin_run(RunConfig(out=tmp_path / "mine", seed=1), 2, NOW) == tmp_path / "mine"


def test_a_run_is_reopened_with_other_workers_and_another_end(tmp_path):
    folder = begin_run(RunConfig(out=tmp_path / "mine", epochs=1), 2, NOW)
    assert reopen_run(folder, 3, 500) == folder
    config = load_config(folder / "config.toml")
    assert (config.nproc, config.steps, config.epochs) == (3, 500, None)


def test_a_run_reopened_as_it_was_keeps_its_configuration(tmp_path):
    folder = begin_run(RunConfig(out=tmp_path / "mine", epochs=1), 2, NOW)
    before = (folder / "config.toml").read_text()
    reopen_run(folder, None, None)
    assert (folder / "config.toml").read_text() == before


def test_a_run_is_not_reopened_with_more_workers_than_samples_in_a_batch(tmp_path):
    folder = begin_run(RunConfig(out=tmp_path / "mine", batch_size=2), 2, NOW)
    with pytest.raises(ConfigurationError, match="batch_size = 2"):
        reopen_run(folder, 3, None)
    assert load_config(folder / "config.toml").nproc == 2


@pytest.mark.parametrize("rule", RULES)
def test_a_run_of_every_rule_can_be_begun(tmp_path, rule):
    config = RunConfig(task="regression", out=tmp_path / "run", optim=OptimSettings(rule=rule))
    folder = begin_run(config, 2, NOW)
    assert load_config(folder / "config.toml").optim.rule == rule
