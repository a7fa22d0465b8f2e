"""What is advised can be typed."""

import shlex

import pytest

from adamesh.cli import compare, resume, train
from adamesh.cli.main import COMMANDS
from adamesh.cli.options import parse
from adamesh.cli.train import configuration, configured
from adamesh.train.folder import checked
from adamesh.tune.arms import Budget, make_arms, read_overs
from tests.unit.doctor.runs import diagnosed, leave
from tests.unit.doctor.test_symptoms import SICK


@pytest.mark.parametrize(("symptom", "run"), SICK, ids=[f"{name}-{n}" for n, (name, _) in enumerate(SICK)])
def test_every_command_that_is_advised_is_one_that_trains_with_the_runs_settings(tmp_path, symptom, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = diagnosed(leave(tmp_path / "run", **run)).findings[symptom]
    for command in (advice.command for advice in found.advice if advice.command is not None):
        program, name, *argv = shlex.split(command)
        assert program == "adamesh"
        assert name in COMMANDS
        if name == "train":
            config = checked(configuration(argv), 2)
        elif name == "compare":
            options, config = configured(argv, compare._parse)
            assert make_arms(config, read_overs(options.over, options.optim), Budget(options.budget_s))
        else:
            assert parse(resume.Options, argv, command="adamesh resume", description="").folder.name == "run"
            continue
        assert config.task == "digits"
        assert config.out is not None
        assert not config.out.exists()


def test_commands_are_quoted_where_a_folder_has_spaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = diagnosed(leave(tmp_path / "my run", lambda line: {"loss": 2.3 + line["step"]})).findings["divergence"]
    argv = shlex.split(found.advice[1].command)
    assert argv[:3] == ["adamesh", "train", "my run/config.toml"]
    assert train.configuration(argv[2:]).plan.max_grad_norm == 1.0
